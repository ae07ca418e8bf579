#!/usr/bin/env python3
"""The upstream of the end-to-end tests: all kinds of calls, and grpc.health.v1, by grpcio.

  server.py [--port N] [--cert PEM --key PEM] [--down SERVICE] [--fail STATUS [--bare]]

`--fail` has every call end with that status, behind metadata of its own or (`--bare`) in a response that is nothing else.

Prints `listening on PORT` and then one JSON line for each call that has ended: {"method", "ended", "requests", "metadata"},
where `ended` is `ok`, a status, or `cancelled`. Ends when its input is closed.
"""
import argparse, json, sys, threading, time
from concurrent import futures

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import calls_pb2 as pb
import calls_pb2_grpc as rpc

STATUSES = {code.value[0]: code for code in grpc.StatusCode}
MESSAGE_BYTES_MAX = 64 << 20
lock = threading.Lock()


def tell(**line):
    with lock:
        print(json.dumps(line), flush=True)


class Calls(rpc.CallsServicer):
    """Echoes, streams, waits and fails as the request says; tells how each call ended."""

    def __init__(self, fail, bare):
        self.fail, self.bare = fail, bare

    def begin(self, context, method):
        metadata = {key: value if isinstance(value, str) else value.hex() for key, value in context.invocation_metadata()}
        call = {"method": method, "requests": 0, "metadata": metadata, "ended": None}

        def ended():
            # To a handler that waits for requests a call that is taken back may look as if its client had ended its side.
            cancelled = context._state.client == "cancelled"
            tell(**{**call, "ended": "cancelled" if cancelled else call["ended"] or "cancelled"})

        context.add_callback(ended)
        if self.fail is not None:
            call["ended"] = STATUSES[self.fail].name
            if not self.bare:
                context.send_initial_metadata((("x-initial", "i"),))
            context.abort(STATUSES[self.fail], "as told")
        # Metadata both in front and behind, text and binary.
        context.send_initial_metadata((("x-initial", "i"), ("x-initial-bin", b"\x00\xff")))
        context.set_trailing_metadata((("x-trailing", "t"), ("x-trailing-bin", bytes(range(8)))))
        return call

    def finish(self, context, call, request):
        if request.status:
            code = STATUSES[request.status]
            call["ended"] = code.name
            context.abort(code, request.message)
        call["ended"] = "ok"

    def respond(self, context, call, request, seen):
        if request.wait_ms:
            # In small steps, so that a call that is cancelled ends its thread.
            end = time.monotonic() + request.wait_ms / 1000
            while context.is_active() and time.monotonic() < end:
                time.sleep(0.01)
        remaining = context.time_remaining()
        # Without a deadline grpcio says a number as large as it can.
        left = -1 if remaining is None or remaining > 1e6 else int(remaining * 1000)
        payload = request.payload if not request.bytes else b"x" * request.bytes
        return pb.Response(payload=payload, requests=call["requests"], bytes=seen, remaining_ms=left)

    def Unary(self, request, context):
        call = self.begin(context, "Unary")
        call["requests"] = 1
        response = self.respond(context, call, request, len(request.payload))
        self.finish(context, call, request)
        return response

    def ServerStream(self, request, context):
        call = self.begin(context, "ServerStream")
        call["requests"] = 1
        for _ in range(request.count):
            if not context.is_active():
                return
            yield self.respond(context, call, request, len(request.payload))
        self.finish(context, call, request)

    def ClientStream(self, requests, context):
        call = self.begin(context, "ClientStream")
        seen, last = 0, pb.Request()
        for last in requests:
            call["requests"] += 1
            seen += len(last.payload)
        response = self.respond(context, call, last, seen)
        self.finish(context, call, last)
        return response

    def Bidi(self, requests, context):
        call = self.begin(context, "Bidi")
        seen, last = 0, pb.Request()
        for last in requests:
            call["requests"] += 1
            seen += len(last.payload)
            if last.status:
                # At once, whatever the client still wants to send.
                break
            yield self.respond(context, call, last, seen)
        self.finish(context, call, last)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--down", action="append", default=[])
    parser.add_argument("--fail", type=int)
    parser.add_argument("--bare", action="store_true")
    arguments = parser.parse_args()
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=32),
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.so_reuseport", 0),
        ],
    )
    rpc.add_CallsServicer_to_server(Calls(arguments.fail, arguments.bare), server)
    checks = health.HealthServicer()
    for service in ["", "ringwall.e2e.v1.Calls"]:
        checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    for service in arguments.down:
        checks.set(service, health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    where = f"127.0.0.1:{arguments.port}"
    if arguments.cert:
        with open(arguments.key, "rb") as key, open(arguments.cert, "rb") as cert:
            credentials = grpc.ssl_server_credentials([(key.read(), cert.read())])
        port = server.add_secure_port(where, credentials)
    else:
        port = server.add_insecure_port(where)
    server.start()
    print(f"listening on {port}", flush=True)
    # `down NAME` and `up NAME` change what the health service says.
    for line in sys.stdin:
        verb, _, service = line.strip().partition(" ")
        status = {"up": health_pb2.HealthCheckResponse.SERVING, "down": health_pb2.HealthCheckResponse.NOT_SERVING}.get(verb)
        if status is not None:
            checks.set(service, status)
            tell(health=service, verb=verb)
    server.stop(1).wait()


main()
