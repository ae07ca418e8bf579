#!/usr/bin/env python3
"""The client of the end-to-end tests, by grpcio: every case against any HTTP/2 endpoint.

  client.py TARGET [--ca PEM] [--authority NAME] [--metadata K=V]... [--only CASE]... [--skip CASE]... [--list]
  client.py TARGET --call METHOD JSON        one call; prints {"status", "message", "responses", "initial", "trailing"}

One line for each case, `ok NAME` or `FAILED NAME: why`; the exit code is 1 if any failed. Cases know nothing of who stands
between client and server.
"""
import argparse, json, sys, threading, time, traceback

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

import calls_pb2 as pb
import calls_pb2_grpc as rpc

Code = grpc.StatusCode
TIMEOUT = 20
CASES = []


def case(function):
    CASES.append(function)
    return function


class Client:
    def __init__(self, arguments):
        options = [
            ("grpc.max_receive_message_length", 64 << 20),
            ("grpc.max_send_message_length", 64 << 20),
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if arguments.authority:
            name = "grpc.ssl_target_name_override" if arguments.ca else "grpc.default_authority"
            options.append((name, arguments.authority))
        if arguments.ca:
            with open(arguments.ca, "rb") as ca:
                self.channel = grpc.secure_channel(arguments.target, grpc.ssl_channel_credentials(ca.read()), options)
        else:
            self.channel = grpc.insecure_channel(arguments.target, options)
        self.calls = rpc.CallsStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self.metadata = tuple(tuple(pair.split("=", 1)) for pair in arguments.metadata)

    def with_call(self, method, request, timeout=TIMEOUT, metadata=()):
        return getattr(self.calls, method).with_call(request, timeout=timeout, metadata=self.metadata + metadata)

    def stream(self, method, request, timeout=TIMEOUT):
        return getattr(self.calls, method)(request, timeout=timeout, metadata=self.metadata)


def refused(call, code, message=None):
    """The call ends with this status, and this message if one is given."""
    try:
        for _ in call():
            pass
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} {error.details()!r}"
        assert message is None or error.details() == message, error.details()
        return error
    raise AssertionError(f"the call was no {code}")


def once(client, request, **more):
    return lambda: [client.with_call("Unary", request, **more)]


def same(found, expected):
    assert found == expected, f"{found!r} instead of {expected!r}"


@case
def unary(client):
    response, call = client.with_call("Unary", pb.Request(payload=b"hello"))
    same((response.payload, response.requests, response.bytes), (b"hello", 1, 5))
    same(call.code(), Code.OK)


@case
def unary_empty(client):
    response, _ = client.with_call("Unary", pb.Request())
    same(response.payload, b"")


@case
def metadata_both_ways(client):
    sent = (("x-text", "a, b;c"), ("x-raw-bin", bytes(range(256))), ("x-twice", "1"), ("x-twice", "2"))
    _, call = client.with_call("Unary", pb.Request(), metadata=sent)
    initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
    same((initial["x-initial"], initial["x-initial-bin"]), ("i", b"\x00\xff"))
    same((trailing["x-trailing"], trailing["x-trailing-bin"]), ("t", bytes(range(8))))
    assert "x-trailing" not in initial and "x-initial" not in trailing


@case
def status_and_message(client):
    for number in range(1, 17):
        code = next(code for code in Code if code.value[0] == number)
        error = refused(once(client, pb.Request(status=number, message=f"no {number}")), code, f"no {number}")
        same(dict(error.trailing_metadata())["x-trailing"], "t")


@case
def message_with_any_characters(client):
    message = "100 % äöü \U0001f600 \r\n\t\"quoted\" {a}"
    refused(once(client, pb.Request(status=3, message=message)), Code.INVALID_ARGUMENT, message)


@case
def server_streaming(client):
    responses = list(client.stream("ServerStream", pb.Request(payload=b"p", count=100)))
    same([response.payload for response in responses], [b"p"] * 100)


@case
def server_streaming_of_none(client):
    call = client.stream("ServerStream", pb.Request(count=0))
    same((list(call), call.code()), ([], Code.OK))


@case
def server_streaming_is_prompt(client):
    """Each message comes when it is sent, not when the stream ends."""
    begun, times = time.monotonic(), []
    for _ in client.stream("ServerStream", pb.Request(payload=b"p", count=4, wait_ms=200)):
        times.append(time.monotonic() - begun)
    assert times[0] < 0.6 and times[3] > 0.75, times


@case
def server_streaming_fails_midway(client):
    seen = []
    def call():
        for response in client.stream("ServerStream", pb.Request(payload=b"p", count=3, status=10, message="midway")):
            seen.append(response.payload)
            yield response
    error = refused(call, Code.ABORTED, "midway")
    same(seen, [b"p"] * 3)
    same(dict(error.trailing_metadata())["x-trailing"], "t")


@case
def client_streaming(client):
    requests = (pb.Request(payload=b"x" * 1000) for _ in range(100))
    response = client.stream("ClientStream", requests)
    same((response.requests, response.bytes), (100, 100_000))


@case
def client_streaming_of_none(client):
    same(client.stream("ClientStream", iter(())).requests, 0)


@case
def bidi_is_a_conversation(client):
    """Each request is sent only once the response to the one before it is there."""
    answered = threading.Semaphore(1)
    def requests():
        for number in range(20):
            assert answered.acquire(timeout=TIMEOUT), "no answer to the request before"
            yield pb.Request(payload=bytes([number]))
    seen = []
    for response in client.stream("Bidi", requests()):
        seen.append(response.payload)
        answered.release()
    same(seen, [bytes([number]) for number in range(20)])


@case
def bidi_full_speed(client):
    requests = (pb.Request(payload=b"x" * 5_000) for _ in range(1_000))
    count = sum(1 for response in client.stream("Bidi", requests) if len(response.payload) == 5_000)
    same(count, 1_000)


@case
def server_answers_early(client):
    """The server refuses before the client has sent all."""
    def endless():
        for _ in range(10_000):
            yield pb.Request(payload=b"x" * 100, status=9, message="enough")
            time.sleep(0.001)
    begun = time.monotonic()
    refused(lambda: client.stream("Bidi", endless()), Code.FAILED_PRECONDITION, "enough")
    assert time.monotonic() - begun < 5, "late"


@case
def large_messages(client):
    for size in [16_384 - 5, 65_535, 65_536, 1 << 20, 3 << 20]:
        payload = bytes([size & 255]) * size
        response, _ = client.with_call("Unary", pb.Request(payload=payload))
        assert response.payload == payload, size


@case
def large_response(client):
    response, _ = client.with_call("Unary", pb.Request(bytes=3 << 20))
    same(len(response.payload), 3 << 20)


@case
def deadline_is_told_to_the_server(client):
    response, _ = client.with_call("Unary", pb.Request(), timeout=5)
    # Clients round up what they write.
    assert 3_000 < response.remaining_ms <= 5_100, response.remaining_ms


@case
def deadline_exceeded(client):
    begun = time.monotonic()
    refused(once(client, pb.Request(wait_ms=5_000), timeout=0.5), Code.DEADLINE_EXCEEDED)
    assert time.monotonic() - begun < 2, "late"


@case
def deadline_exceeded_midway(client):
    seen = []
    def call():
        for response in client.stream("ServerStream", pb.Request(payload=b"p", count=100, wait_ms=100), timeout=0.55):
            seen.append(response)
            yield response
    refused(call, Code.DEADLINE_EXCEEDED)
    assert 2 <= len(seen) <= 6, len(seen)


@case
def cancellation(client):
    """The client gives up in the middle of a stream; the server's log line says `cancelled` (the caller of this looks)."""
    call = client.stream("ServerStream", pb.Request(payload=b"p", count=1_000, wait_ms=20))
    next(call)
    call.cancel()
    refused(lambda: call, Code.CANCELLED)


@case
def cancellation_before_an_answer(client):
    call = client.calls.Unary.future(pb.Request(wait_ms=5_000), timeout=TIMEOUT, metadata=client.metadata)
    time.sleep(0.2)
    call.cancel()
    same(call.code(), Code.CANCELLED)


@case
def many_at_once(client):
    futures = [
        client.calls.Unary.future(pb.Request(payload=bytes([number]) * 100, wait_ms=20), timeout=TIMEOUT, metadata=client.metadata)
        for number in range(64)
    ]
    for number, future in enumerate(futures):
        same(future.result().payload, bytes([number]) * 100)


@case
def compressed(client):
    call = client.calls.Unary.with_call(
        pb.Request(payload=b"a" * 100_000), timeout=TIMEOUT, metadata=client.metadata, compression=grpc.Compression.Gzip
    )
    same(len(call[0].payload), 100_000)


@case
def unknown_method(client):
    call = client.channel.unary_unary("/ringwall.e2e.v1.Calls/Nothing")
    refused(lambda: [call(b"", timeout=TIMEOUT, metadata=client.metadata)], Code.UNIMPLEMENTED)


@case
def health(client):
    check = lambda service: client.health.Check(
        health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT, metadata=client.metadata
    ).status
    same(check(""), health_pb2.HealthCheckResponse.SERVING)
    same(check("ringwall.e2e.v1.Calls"), health_pb2.HealthCheckResponse.SERVING)
    refused(lambda: [check("no.such.Service")], Code.NOT_FOUND)


def one_call(client, method, request):
    fields = json.loads(request)
    if "payload" in fields:
        fields["payload"] = fields["payload"].encode()
    timeout = fields.pop("timeout", TIMEOUT)
    request = pb.Request(**fields)
    streams = method in ("ClientStream", "Bidi")
    found = {"status": 0, "message": "", "responses": []}
    try:
        if method in ("Unary", "ClientStream"):
            stub = getattr(client.calls, method)
            response, call = stub.with_call(iter([request]) if streams else request, timeout=timeout, metadata=client.metadata)
            responses = [response]
        else:
            call = client.stream(method, iter([request]) if streams else request, timeout)
            responses = call
        for response in responses:
            found["responses"].append(len(response.payload))
    except grpc.RpcError as error:
        call = error
        found["status"], found["message"] = error.code().value[0], error.details()
    text = lambda pairs: {key: value if isinstance(value, str) else value.hex() for key, value in pairs or ()}
    found["initial"], found["trailing"] = text(call.initial_metadata()), text(call.trailing_metadata())
    print(json.dumps(found))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--ca")
    parser.add_argument("--authority")
    parser.add_argument("--metadata", action="append", default=[])
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--skip", action="append", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--call", nargs=2)
    arguments = parser.parse_args()
    if arguments.list:
        return print("\n".join(function.__name__ for function in CASES))
    client = Client(arguments)
    if arguments.call:
        return one_call(client, *arguments.call)
    failed = 0
    for function in CASES:
        name = function.__name__
        if (arguments.only and name not in arguments.only) or name in arguments.skip:
            continue
        try:
            function(client)
            print(f"ok {name}", flush=True)
        except Exception as error:
            failed += 1
            why = str(error).replace("\n", " ") or traceback.format_exc().replace("\n", " ")
            print(f"FAILED {name}: {type(error).__name__}: {why[:500]}", flush=True)
    client.channel.close()
    sys.exit(1 if failed else 0)


main()
