#!/usr/bin/env python3
"""gRPC-Web over HTTP/1.1 or HTTP/2, written by hand from PROTOCOL-WEB: every case in binary and in text.

  web.py HOST:PORT [--authority NAME] [--metadata K=V]... [--tls CA] [--http2]

The server behind the translator is server.py. One line for each case, as client.py.
"""
import argparse, base64, http.client, ssl, struct, sys, time

import httpx

import calls_pb2 as pb

TYPES = {"binary": "application/grpc-web+proto", "text": "application/grpc-web-text+proto"}


def frame(message, flag=0):
    return bytes([flag]) + struct.pack(">I", len(message)) + message


def decode_text(text):
    """Padded pieces, one behind another; cut anywhere into groups of four."""
    return b"".join(base64.b64decode(text[at : at + 4], validate=True) for at in range(0, len(text), 4))


class Answer:
    def __init__(self, response, body, style):
        self.http_status, self.headers = response.status, {k.lower(): v for k, v in response.getheaders()}
        self.body = decode_text(body) if style == "text" else body
        self.messages, self.trailers, rest = [], None, self.body
        while rest:
            assert self.trailers is None, "something behind the trailers"
            flag, length = rest[0], struct.unpack(">I", rest[1:5])[0]
            content, rest = rest[5 : 5 + length], rest[5 + length :]
            assert len(content) == length, "a frame that is cut off"
            if flag & 0x80:
                assert flag == 0x80 and (content.endswith(b"\r\n") or not content), content
                assert b"\r\n\r\n" not in content, content
                pairs = [line.split(":", 1) for line in content.decode().split("\r\n") if line]
                assert all(name == name.lower() for name, _ in pairs), pairs
                self.trailers = {name: value.strip() for name, value in pairs}
            else:
                assert flag == 0
                self.messages.append(pb.Response.FromString(content))
        self.status = int((self.trailers or self.headers)["grpc-status"])
        self.message = (self.trailers or self.headers).get("grpc-message", "")


class Http2:
    """A response of httpx, over HTTP/2 and nothing else, as http.client's are."""

    def __init__(self, client, response):
        assert response.http_version == "HTTP/2", response.http_version
        self.client, self.response, self.status = client, response, response.status_code
        self.pieces = response.iter_raw()

    def getheaders(self):
        return self.response.headers.multi_items()

    def read1(self, _):
        return next(self.pieces, b"")

    def read(self):
        return b"".join(self.pieces)

    def close(self):
        self.client.close()


class Client:
    def __init__(self, arguments):
        self.arguments = arguments
        self.metadata = dict(pair.split("=", 1) for pair in arguments.metadata)

    def post(self, method, body, style, headers=()):
        host, port = self.arguments.target.rsplit(":", 1)
        fields = {"content-type": TYPES[style], "x-grpc-web": "1", **self.metadata, **dict(headers)}
        if style == "text":
            fields["accept"] = TYPES[style]
        if self.arguments.authority:
            fields["host"] = self.arguments.authority
        if self.arguments.http2:
            verify = self.arguments.tls or True
            client = httpx.Client(http1=False, http2=True, timeout=20, verify=verify, trust_env=False)
            scheme = "https" if self.arguments.tls else "http"
            url = f"{scheme}://{self.arguments.target}/ringwall.e2e.v1.Calls/{method}"
            request = client.build_request("POST", url, content=body, headers=fields)
            response = Http2(client, client.send(request, stream=True))
            return response, response
        if self.arguments.tls:
            context = ssl.create_default_context(cafile=self.arguments.tls)
            connection = http.client.HTTPSConnection(host, int(port), timeout=20, context=context)
        else:
            connection = http.client.HTTPConnection(host, int(port), timeout=20)
        connection.request("POST", f"/ringwall.e2e.v1.Calls/{method}", body, fields)
        response = connection.getresponse()
        return response, connection

    def call(self, method, request, style, headers=()):
        body = frame(request.SerializeToString())
        body = base64.b64encode(body) if style == "text" else body
        response, connection = self.post(method, body, style, headers)
        answer = Answer(response, response.read(), style)
        connection.close()
        assert answer.http_status == 200, answer.http_status
        assert answer.headers["content-type"].split(";")[0] in (TYPES[style], TYPES[style].split("+")[0]), answer.headers
        return answer


def unary(client, style):
    answer = client.call("Unary", pb.Request(payload=b"hello"), style)
    assert (answer.status, [m.payload for m in answer.messages]) == (0, [b"hello"])
    assert answer.headers["x-initial"] == "i" and answer.trailers["x-trailing"] == "t"
    assert base64.b64decode(answer.trailers["x-trailing-bin"] + "==") == bytes(range(8))


def every_length(client, style):
    for size in range(0, 8):
        answer = client.call("Unary", pb.Request(payload=b"x" * size), style)
        assert len(answer.messages[0].payload) == size


def server_streaming(client, style):
    answer = client.call("ServerStream", pb.Request(payload=b"p", count=50), style)
    assert (answer.status, len(answer.messages)) == (0, 50)


def streaming_is_prompt(client, style):
    body = frame(pb.Request(payload=b"p", count=3, wait_ms=300).SerializeToString())
    begun = time.monotonic()
    response, connection = client.post("ServerStream", base64.b64encode(body) if style == "text" else body, style)
    seen, times = b"", []
    while piece := response.read1(65536):
        seen += piece
        times.append(time.monotonic() - begun)
    answer = Answer(response, seen, style)
    assert len(answer.messages) == 3 and times[0] < 0.7, times
    connection.close()


def large(client, style):
    answer = client.call("Unary", pb.Request(payload=b"x" * 500_000), style)
    assert len(answer.messages[0].payload) == 500_000


def refused_before_anything(client, style):
    answer = client.call("Unary", pb.Request(status=7, message="not äöü"), style)
    assert (answer.status, answer.message, answer.messages) == (7, "not %C3%A4%C3%B6%C3%BC", []), answer.message


def refused_midway(client, style):
    answer = client.call("ServerStream", pb.Request(payload=b"p", count=3, status=10, message="midway"), style)
    assert (answer.status, answer.message, len(answer.messages)) == (10, "midway", 3)


def deadline(client, style):
    answer = client.call("Unary", pb.Request(wait_ms=5_000), style, [("grpc-timeout", "300m")])
    assert answer.status == 4, answer.status


def padded_within(client, style):
    if style == "text":
        body = frame(pb.Request(payload=b"hello").SerializeToString())
        pieces = b"".join(base64.b64encode(body[at : at + 4]) for at in range(0, len(body), 4))
        response, _ = client.post("Unary", pieces, style)
        answer = Answer(response, response.read(), style)
        assert [m.payload for m in answer.messages] == [b"hello"]


def not_base64(client, style):
    if style == "text":
        response, _ = client.post("Unary", b"AAAA\nAAAA", style)
        body = response.read()
        # Envoy answers 400; Ringwall with a status of gRPC.
        assert response.status == 400 or Answer(response, body, style).status in (3, 13), response.status


CASES = [unary, every_length, server_streaming, streaming_is_prompt, large, refused_before_anything, refused_midway,
         deadline, padded_within, not_base64]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--authority")
    parser.add_argument("--tls")
    parser.add_argument("--http2", action="store_true")
    parser.add_argument("--metadata", action="append", default=[])
    parser.add_argument("--only", action="append", default=[])
    client = Client(parser.parse_args())
    failed = 0
    for case in CASES:
        for style in TYPES:
            name = f"{case.__name__}/{style}"
            if client.arguments.only and case.__name__ not in client.arguments.only:
                continue
            try:
                case(client, style)
                print(f"ok {name}", flush=True)
            except Exception as error:
                failed += 1
                print(f"FAILED {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    sys.exit(1 if failed else 0)


main()
