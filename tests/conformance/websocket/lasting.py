"""Everything that lasts, through a node, until somebody ends it: WebSockets, streams of events, downloads, calls of gRPC, over
HTTP/1.1 and HTTP/2, to origins of both.

    lasting.py origin
    lasting.py hold --http1 PORT --http2 PORT [--only KIND]

`origin` serves and says on which ports: HTTP/1.1, HTTP/2 (prior knowledge), gRPC, WebSocket. `hold` says `ready`, and reads lines
from standard input. The first is a field, `NAME:VALUE`: it opens one of each with it, and says `open` when each has had its first bytes.
Then `wait` waits until all of them have ended, `state` waits for nothing; both say how each stands, as a JSON object: `open`, `whole`, or
how it ended.

The node has to serve what `tests/it/lasting.rs` configures.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from concurrent import futures

import grpc
import h2.config
import h2.connection
import h2.events
import h2.exceptions
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

import bridge
import suite

LENGTH = 10 << 20  # of a download, of which a little is sent now and then
WAIT_S = 15


# ---- origins


async def http1():
    async def answer(reader, writer):
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            path = head.split()[1]
            if path.startswith("/download"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\nContent-Length: %d\r\n\r\n" % LENGTH)
                while True:
                    writer.write(b"x" * 100)
                    await writer.drain()
                    await asyncio.sleep(0.1)
            if path.startswith("/upload"):
                while await reader.read(1 << 16):
                    pass
                return
            if path.startswith("/flood"):
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while True:
                    writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                    await writer.drain()
            # One event, and then silence: nothing but the node's own clock moves anything.
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


async def http2():
    async def answer(reader, writer):
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        writer.write(http.data_to_send())
        try:
            while data := await reader.read(1 << 16):
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    if isinstance(event, h2.events.RequestReceived) and dict(event.headers)[":method"] == "GET":
                        http.send_headers(event.stream_id, [(":status", "200"), ("content-type", "text/event-stream")])
                        http.send_data(event.stream_id, b"data: 1\n\n")
                writer.write(http.data_to_send())
        except ConnectionError:
            pass
        finally:
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", 0)


def calls():
    """A call that answers once and then waits, and one that answers whatever it is told."""
    def once(request, context):
        yield b"1"
        while context.is_active():
            time.sleep(0.05)

    def last(requests, _):
        for request in requests:
            pass
        return request

    handlers = {"Gather": grpc.stream_unary_rpc_method_handler(last), "Watch": grpc.unary_stream_rpc_method_handler(once), "Talk": grpc.stream_stream_rpc_method_handler(lambda all_of, _: all_of)}
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("lasting.Calls", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


async def run_origin():
    async def speak(socket):
        with contextlib.suppress(ConnectionClosed):
            async for message in socket:
                await socket.send(message)

    one, two, sockets = await http1(), await http2(), await serve(speak, "127.0.0.1", 0)
    server, port = calls()
    over2 = await bridge.bridge("127.0.0.1:0", f"127.0.0.1:{sockets.sockets[0].getsockname()[1]}")
    ports = [listening.sockets[0].getsockname()[1] for listening in (one, two, sockets, over2)]
    print(*ports[:2], port, *ports[2:], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.stop(None)


# ---- what lasts: each is opened, and then says how it ends


class Body:
    """A response over HTTP/1.1, read to its end."""

    def __init__(self, path, reads=True):
        self.path, self.reads, self.go_on = path, reads, asyncio.Event()

    async def open(self, ports, fields):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", ports.http1, limit=1 << 17)
        lines = [f"GET {self.path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in fields), "", ""]
        self.writer.write("\r\n".join(lines).encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        suite.same(head.split()[1], "200")
        self.chunked = "transfer-encoding: chunked" in head
        suite.same(len(await self.reader.readexactly(8)), 8)

    async def ended(self):
        if not self.reads:
            # Who takes nothing is no longer sent to, and finds out when it reads on: when the others are waited for.
            await self.go_on.wait()
        last = b""
        try:
            while data := await self.reader.read(1 << 16):
                last = (last + data)[-16:]
        except ConnectionError:
            return "reset"
        return "whole" if self.chunked and last.endswith(b"0\r\n\r\n") else "cut"


class Stream:
    """A response over HTTP/2."""

    def __init__(self, path):
        self.path = path

    async def open(self, ports, fields):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", ports.http2)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.http.send_headers(1, [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", self.path),
                                   *((name.lower(), value) for name, value in fields)], end_stream=True)
        self.end = None
        await self.until(lambda event: isinstance(event, h2.events.DataReceived))

    async def until(self, found, status="200"):
        while self.end is None:
            self.writer.write(self.http.data_to_send())
            data = await self.reader.read(1 << 16)
            if not data:
                self.end = "closed"
            for event in self.http.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    suite.same(dict(event.headers)[":status"], status or dict(event.headers)[":status"])
                if isinstance(event, h2.events.StreamReset):
                    self.end = f"reset {int(event.error_code)}"
                if isinstance(event, h2.events.StreamEnded):
                    self.end = "whole"
                if found(event):
                    return

    async def ended(self):
        await self.until(lambda _: False)
        return self.end


class Upload:
    """A request over HTTP/1.1 whose body has no end; it begins when it has been admitted."""

    def __init__(self, path):
        self.path = path

    async def open(self, ports, fields):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", ports.http1)
        lines = [f"POST {self.path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Transfer-Encoding: chunked",
                 "Expect: 100-continue", *(f"{name}: {value}" for name, value in fields), "", ""]
        self.writer.write("\r\n".join(lines).encode())
        suite.same((await self.reader.readuntil(b"\r\n\r\n")).split()[1], b"100")
        self.sending = asyncio.create_task(self.send())

    async def send(self):
        with contextlib.suppress(ConnectionError):
            while True:
                self.writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
                await self.writer.drain()
                await asyncio.sleep(0.1)

    async def ended(self):
        answer = await self.reader.read()
        self.sending.cancel()
        head, body = answer.split(b"\r\n\r\n", 1)
        suite.same(b"www-authenticate:" in head.lower(), head.split()[1] == b"401")
        return f"{head.split()[1].decode()} {json.loads(body)['reason']}"


class UploadStream(Stream):
    """The same over HTTP/2."""

    async def open(self, ports, fields):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", ports.http2)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.http.send_headers(1, [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", self.path),
                                   ("expect", "100-continue"), *((name.lower(), value) for name, value in fields)])
        self.end, self.body = None, b""
        await self.until(lambda event: isinstance(event, h2.events.InformationalResponseReceived))
        self.sending = asyncio.create_task(self.send())

    async def send(self):
        while self.end is None:
            with contextlib.suppress(h2.exceptions.ProtocolError):
                self.http.send_data(1, b" " * 1024)
                self.writer.write(self.http.data_to_send())
            await asyncio.sleep(0.1)

    async def ended(self):
        heads = []

        def hear(event):
            if isinstance(event, h2.events.ResponseReceived):
                heads.append(dict(event.headers))
            if isinstance(event, h2.events.DataReceived):
                self.body += event.data

        await self.until(lambda event: hear(event) or False, "")
        self.sending.cancel()
        if not heads:
            return self.end
        suite.same("www-authenticate" in heads[0], heads[0][":status"] == "401")
        return f"{heads[0][':status']} {json.loads(self.body)['reason']}"


class WebSocket:
    def __init__(self, over2, path):
        self.over2, self.path = over2, path

    async def open(self, ports, fields):
        if self.over2:
            self.socket = await suite.Over2(ports.http2, False).open(self.path, additional_headers={name.lower(): value for name, value in fields})
        else:
            self.socket = await connect(f"ws://127.0.0.1:{ports.http1}{self.path}", additional_headers=fields, proxy=None, ping_interval=None,
                                        close_timeout=2)
        await self.socket.send("there?")
        suite.same(await self.socket.recv(), "there?")

    async def ended(self):
        code, reason = await suite.ends(self.socket, None)
        return f"{code} {reason}"


class Call:
    """A call of gRPC, by grpcio."""

    def __init__(self, method):
        self.method = method

    async def open(self, ports, fields):
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{ports.http2}", options=[("grpc.default_authority", "localhost")])
        metadata = [(name.lower(), value) for name, value in fields]
        if self.method == "Gather":
            self.call = self.channel.stream_unary("/lasting.Calls/Gather")(metadata=metadata)
            await self.call.write(b"1")
            return
        if self.method == "Watch":
            self.call = self.channel.unary_stream("/lasting.Calls/Watch")(b"1", metadata=metadata)
        else:
            self.call = self.channel.stream_stream("/lasting.Calls/Talk")(metadata=metadata)
            await self.call.write(b"1")
        suite.same(await self.call.read(), b"1")

    async def ended(self):
        code = await self.call.code()
        return f"{code.name} {(await self.call.details()).split(':')[0]}"


KINDS = {
    "websocket h1": lambda: WebSocket(False, "/socket"), "websocket h2": lambda: WebSocket(True, "/socket"),
    "websocket h1 to h2": lambda: WebSocket(False, "/socket2"), "websocket h2 to h2": lambda: WebSocket(True, "/socket2"),
    "events h1": lambda: Body("/events"), "events h1 to h2": lambda: Body("/two/events"),
    "events h2": lambda: Stream("/events"), "events h2 to h2": lambda: Stream("/two/events"),
    "download h1": lambda: Body("/download"), "download h2": lambda: Stream("/download"),
    "stalled h1": lambda: Body("/flood", False),
    "upload h1": lambda: Upload("/upload"), "upload h1 to h2": lambda: Upload("/two/upload"), "held h1": lambda: Upload("/hold"),
    "upload h2": lambda: UploadStream("/upload"), "upload h2 to h2": lambda: UploadStream("/two/upload"),
    "gather": lambda: Call("Gather"), "call": lambda: Call("Watch"), "conversation": lambda: Call("Talk"),
}


async def run_hold(arguments):
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print("ready", flush=True)
    fields = [tuple((await lines.readline()).decode().strip().split(":", 1))]
    kinds = {name: make() for name, make in KINDS.items() if arguments.only in name}
    await asyncio.gather(*(kind.open(arguments, fields) for kind in kinds.values()))
    ends = {name: asyncio.create_task(kind.ended()) for name, kind in kinds.items()}
    print("open", flush=True)
    while word := (await lines.readline()).decode().strip():
        if word == "wait":
            for kind in kinds.values():
                if isinstance(kind, Body):
                    kind.go_on.set()
            await asyncio.wait(ends.values(), timeout=WAIT_S)
        print(json.dumps({name: task.result() if task.done() else "open" for name, task in ends.items()}), flush=True)
    for task in ends.values():
        task.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("origin")
    hold = commands.add_parser("hold")
    for name in ["--http1", "--http2"]:
        hold.add_argument(name, type=int, required=True)
    hold.add_argument("--only", default="")
    arguments = parser.parse_args()
    asyncio.run(run_origin() if arguments.command == "origin" else run_hold(arguments))
