"""WebSockets through a node, from clients and to an origin that others wrote (Python's `websockets`, and `h2` for RFC 8441).

    suite.py cases --plain PORT --tls PORT --h2c PORT --origin ADDRESS:PORT [--bridge ADDRESS:PORT]
    suite.py hold N --url URL --origin ADDRESS:PORT [--header NAME:VALUE] [--h2]

`cases` runs every case and prints one JSON object a line. `hold` opens N WebSockets, says `open`, and then does what it is told on standard
input, a word a line: `echo` exchanges a message on each, `wait` waits until each is closed and says how, `end` ends.

The node has to serve what `tests/it/websocket.rs` configures. The origin is started here; with `--bridge` one of HTTP/2 before it.
"""

import argparse
import asyncio
import contextlib
import json
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.events
import h2.settings
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.http11 import Response
from websockets.datastructures import Headers

import bridge

TRUSTING = ssl.create_default_context()
TRUSTING.check_hostname = False
TRUSTING.verify_mode = ssl.CERT_NONE

closed_at_origin = []  # how each WebSocket ended for the origin: (path, code, reason)
one_has_closed = asyncio.Condition()
heads_at_origin = []


async def origin(address):
    """Echoes; some paths do something else."""
    host, port = address.rsplit(":", 1)

    def before(connection, request):
        heads_at_origin.append((request.path, dict(request.headers.raw_items())))
        if request.path.endswith("/refuse"):
            return Response(403, "Forbidden", Headers({"Content-Length": "2", "X-Origin": "says"}), b"no")
        if request.path.endswith("/plain") or "Upgrade" not in request.headers:
            return Response(200, "OK", Headers({"Content-Length": "5"}), b"plain")
        return None

    async def speak(socket):
        path = socket.request.path
        try:
            if path.endswith("/large"):
                await socket.send("x" * 200_000)
            if path.endswith("/first"):
                await socket.send("welcome")
            if path.endswith("/goodbye"):
                await socket.close(4001, "enough")
            if path.endswith("/cut"):
                await socket.recv()
                socket.transport.abort()
            async for message in socket:
                await socket.send(message)
        except websockets.ConnectionClosed:
            pass
        finally:
            await socket.wait_closed()
            closed_at_origin.append((path, socket.close_code, socket.close_reason))
            async with one_has_closed:
                one_has_closed.notify_all()

    def choose(_, offered):
        return "chat.v2" if "chat.v2" in offered else None

    return await serve(speak, host, int(port), process_request=before, select_subprotocol=choose, max_size=None,
                       ping_interval=None, close_timeout=2)


async def ends(socket, within=10):
    """How a WebSocket ends: (code, text)."""
    async with asyncio.timeout(within):
        try:
            while True:
                await socket.recv()
        except websockets.ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, "")


async def ended_at_origin(path):
    def found():
        return next((end for end in closed_at_origin if end[0] == path), None)

    async with asyncio.timeout(5), one_has_closed:
        end = await one_has_closed.wait_for(found)
    closed_at_origin.remove(end)
    return end[1:]


CASES = []


def case(function):
    CASES.append(function)
    return function


def same(came, expected):
    if came != expected:
        raise AssertionError(f"{came!r} instead of {expected!r}")


class Over1:
    """Over HTTP/1.1, by `websockets`."""

    def __init__(self, base, **options):
        self.base, self.options = base, options

    def open(self, path, **options):
        if self.base.startswith("wss"):
            options["ssl"] = TRUSTING
        options.setdefault("compression", None)
        options.setdefault("ping_interval", None)
        options.setdefault("proxy", None)
        return connect(self.base + path, max_size=None, close_timeout=2, **options)


# ---- what passes


@case
async def echo(over):
    async with over.open("/echo/") as socket:
        for message in ["", "a", "ä€😀", b"", b"\x00\xff" * 50, "x" * 126, b"y" * 65_535, b"z" * 70_000, "w" * 1_000_000]:
            await socket.send(message)
            same(await socket.recv(), message)
    same(await ended_at_origin("/echo/"), (1000, ""))


@case
async def many_at_once(over):
    async with over.open("/echo/") as socket:
        async def say():
            for number in range(2_000):
                await socket.send(str(number) * (number % 40))
        saying = asyncio.create_task(say())
        for number in range(2_000):
            same(await socket.recv(), str(number) * (number % 40))
        await saying


@case
async def fragments(over):
    async with over.open("/echo/") as socket:
        await socket.send(iter(["one ", "two ", "three"]))
        same(await socket.recv(), "one two three")


@case
async def pings_reach_the_other_end(over):
    async with over.open("/echo/") as socket:
        await asyncio.wait_for(await socket.ping(b"there?"), 5)


@case
async def what_the_upstream_says_first_arrives(over):
    async with over.open("/echo/first") as socket:
        same(await socket.recv(), "welcome")


@case
async def a_close_of_the_client_goes_through(over):
    socket = await over.open("/echo/bye")
    await socket.close(4321, "so long")
    same((socket.close_code, await ended_at_origin("/echo/bye")), (4321, (4321, "so long")))


@case
async def a_close_of_the_upstream_goes_through(over):
    async with over.open("/echo/goodbye") as socket:
        same(await ends(socket), (4001, "enough"))


@case
async def subprotocols_are_agreed_on_by_the_ends(over):
    async with over.open("/echo/", subprotocols=["chat.v1", "chat.v2"]) as socket:
        same(socket.subprotocol, "chat.v2")


@case
async def compression_is_agreed_on_by_the_ends(over):
    async with over.open("/echo/", compression="deflate") as socket:
        same([extension.name for extension in socket.protocol.extensions], ["permessage-deflate"])
        await socket.send("compress me " * 1000)
        same(await socket.recv(), "compress me " * 1000)


@case
async def compression_is_not_offered_where_it_is_switched_off(over):
    for path in ["/small/", "/schema/"]:
        async with over.open(path, compression="deflate") as socket:
            same(socket.protocol.extensions, [])


# ---- what does not


async def refused(over, path, status, **options):
    try:
        async with over.open(path, **options):
            raise AssertionError("it was opened")
    except websockets.InvalidStatus as error:
        same(error.response.status_code, status)
        return error.response


@case
async def a_refusal_of_the_upstream_is_passed_on(over):
    response = await refused(over, "/echo/refuse", 403)
    same((response.headers["X-Origin"], response.body), ("says", b"no"))


@case
async def an_operation_that_is_none_is_answered_plainly(over):
    if isinstance(over, Over1):
        same((await refused(over, "/plain/x", 200)).body, b"plain")


@case
async def an_origin_that_is_not_listed_is_refused(over):
    response = await refused(over, "/origins/", 403, origin="https://evil.example")
    same(json.loads(response.body)["code"], "RW-2408")
    for good in ["https://shop.example", None]:
        async with over.open("/origins/", origin=good) as socket:
            await socket.send("x")
            same(await socket.recv(), "x")


@case
async def without_a_key_it_is_401(over):
    await refused(over, "/closed/", 401)


@case
async def seats_are_taken_until_the_end(over):
    one = await over.open("/seats/")
    two = await over.open("/seats/")
    await refused(over, "/seats/", 429)
    await one.close()
    three = await one_that_finds_a_seat(over)
    await two.close()
    await three.close()
    # Both are free for whoever comes next.
    for socket in [await one_that_finds_a_seat(over), await one_that_finds_a_seat(over)]:
        await socket.close()


async def one_that_finds_a_seat(over):
    """The node hears of an end when both sides of it are over, which its client does not wait for."""
    async with asyncio.timeout(5):
        while True:
            try:
                return await over.open("/seats/")
            except websockets.InvalidStatus as error:
                same(error.response.status_code, 429)


@case
async def a_message_that_is_too_large_closes_with_1009(over):
    async with over.open("/small/big") as socket:
        await socket.send("x" * 4_096)
        same(len(await socket.recv()), 4_096)
        await socket.send("x" * 4_097)
        same(await ends(socket), (1009, "websocket_message_size"))
    same(await ended_at_origin("/small/big"), (1001, "websocket_message_size"))


@case
async def one_of_the_upstream_closes_with_1014(over):
    async with over.open("/small/large") as socket:
        same(await ends(socket), (1014, "upstream_websocket_message"))
    same(await ended_at_origin("/small/large"), (1009, "upstream_websocket_message"))


@case
async def too_many_messages_close_with_1008(over):
    async with over.open("/rate/") as socket:
        for _ in range(5):
            await socket.send("x")
        for _ in range(5):
            same(await socket.recv(), "x")
        await socket.send("one too many")
        same(await ends(socket), (1008, "websocket_rate"))
    same(await ended_at_origin("/rate/"), (1001, "websocket_rate"))


@case
async def a_message_against_the_schema_closes_with_1008(over):
    good = '{"customer":"acme","items":[{"sku":"ABC-1234","quantity":2}]}'
    for bad in ['{"customer":7}', "no json", good.encode(), '{"a":1,"a":1}']:
        async with over.open("/schema/") as socket:
            await socket.send(good)
            same(await socket.recv(), good)
            await socket.send(iter([good[:10], good[10:]]))
            same(await socket.recv(), good)
            await socket.send(bad)
            same(await ends(socket), (1008, "websocket_schema"))


@case
async def silence_closes_with_1001(over):
    begun = time.monotonic()
    async with over.open("/idle/") as socket:
        same(await ends(socket), (1001, "websocket_idle"))
    took = time.monotonic() - begun
    assert 0.9 < took < 3, took
    same(await ended_at_origin("/idle/"), (1001, "websocket_idle"))


@case
async def pings_are_no_silence(over):
    async with over.open("/idle/") as socket:
        for _ in range(6):
            await asyncio.sleep(0.4)
            await asyncio.wait_for(await socket.ping(), 5)


@case
async def a_lifetime_closes_with_1001(over):
    begun = time.monotonic()
    async with over.open("/short/") as socket:
        async def talk():
            for _ in range(9):
                await socket.send("x")
                await asyncio.sleep(0.1)
        talking = asyncio.create_task(talk())
        same(await ends(socket), (1001, "websocket_lifetime"))
        talking.cancel()
    took = time.monotonic() - begun
    assert 0.9 < took < 3, took


@case
async def an_upstream_that_goes_without_a_word_closes_with_1014(over):
    async with over.open("/echo/cut") as socket:
        await socket.send("now")
        same(await ends(socket), (1014, "upstream_websocket_cut"))


@case
async def a_client_that_goes_without_a_word_closes_with_1001(over):
    socket = await over.open("/echo/gone")
    await socket.send("x")
    await socket.recv()
    socket.transport.abort()
    same(await ended_at_origin("/echo/gone"), (1001, "websocket_client_cut"))


# ---- over HTTP/2 (RFC 8441)


class Stream:
    """A WebSocket in a stream: `websockets` frames over `h2`."""

    def __init__(self, over, path, **options):
        self.over, self.path, self.options = over, path, options

    def __await__(self):
        return self.begin().__await__()

    async def __aenter__(self):
        return await self.begin()

    async def __aexit__(self, *error):
        await self.close()

    async def begin(self):
        options = self.options
        secure = self.over.tls
        context = None
        if secure:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.over.port, ssl=context)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False))
        self.http.initiate_connection()
        self.answered, self.data, self.status = asyncio.Event(), asyncio.Queue(), None
        self.told, self.reset, self.stream_ended, self.window = asyncio.Event(), None, False, asyncio.Event()
        self.transport = self.writer.transport
        self.reads = asyncio.Event()
        self.reads.set()
        self.flush()
        self.reading = asyncio.create_task(self.read())
        await asyncio.wait_for(self.told.wait(), 5)
        same(self.http.remote_settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL, 0), 1)
        self.protocol = websockets.ClientProtocol(
            websockets.uri.parse_uri(f"ws://localhost:{self.over.port}{self.path}"), max_size=None)
        fields = [(":method", "CONNECT"), (":protocol", options.get("named", "websocket")),
                  (":scheme", "https" if secure else "http"), (":path", self.path),
                  (":authority", f"localhost:{self.over.port}"), ("sec-websocket-version", "13")]
        if options.get("subprotocols"):
            fields.append(("sec-websocket-protocol", ", ".join(options["subprotocols"])))
        if options.get("origin"):
            fields.append(("origin", options["origin"]))
        if options.get("compression"):
            fields.append(("sec-websocket-extensions", "permessage-deflate"))
        fields += options.get("additional_headers", {}).items()
        self.id = self.http.get_next_available_stream_id()
        self.http.send_headers(self.id, fields)
        self.flush()
        await asyncio.wait_for(self.answered.wait(), 10)
        if self.status != 200:
            body = b""
            while (piece := await asyncio.wait_for(self.data.get(), 5)) is not None:
                body += piece
            self.reading.cancel()
            self.writer.close()
            raise websockets.InvalidStatus(Response(self.status, "", Headers(self.fields), body))
        self.subprotocol = dict(self.fields).get("sec-websocket-protocol")
        self.protocol.extensions = []
        if "sec-websocket-extensions" in dict(self.fields):
            from websockets.extensions.permessage_deflate import PerMessageDeflate
            self.protocol.extensions = [PerMessageDeflate(False, False, 15, 15)]
        self.protocol.state = websockets.State.OPEN
        # Its own would begin with a handshake.
        self.protocol.parser = self.parse_frames()
        next(self.protocol.parser)
        self.messages, self.partial = asyncio.Queue(), []
        self.frames = asyncio.create_task(self.take_frames())
        self.ponged = {}
        return self

    def parse_frames(self):
        from websockets.frames import Frame
        while True:
            if (yield from self.protocol.reader.at_eof()):
                return
            frame = yield from Frame.parse(self.protocol.reader.read_exact, mask=False, max_size=None,
                                           extensions=self.protocol.extensions)
            self.protocol.recv_frame(frame)

    def flush(self):
        self.writer.write(self.http.data_to_send())

    async def frame(self):
        """One frame as it came; `h2` takes GOAWAY for the end of streams that are under way, which it is not (RFC 9113 §6.8)."""
        while True:
            head = await self.reader.readexactly(9)
            whole = head + await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] != 7:
                return whole

    async def read(self):
        try:
            await self.read_frames()
        except asyncio.IncompleteReadError:
            pass
        finally:
            self.data.put_nowait(None)
            self.answered.set()

    async def read_frames(self):
        while await self.reads.wait():
            for event in self.http.receive_data(await self.frame()):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    self.told.set()
                elif isinstance(event, h2.events.ResponseReceived):
                    fields = dict(event.headers)
                    self.status, self.fields = int(fields.pop(":status")), fields
                    self.answered.set()
                elif isinstance(event, h2.events.DataReceived):
                    self.data.put_nowait(event.data)
                    self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, (h2.events.StreamEnded, h2.events.ConnectionTerminated)):
                    self.stream_ended = True
                    if isinstance(event, h2.events.StreamEnded):
                        self.data.put_nowait(None)
                elif isinstance(event, h2.events.StreamReset):
                    self.reset = event.error_code
                    self.answered.set()
                    self.data.put_nowait(None)
                elif isinstance(event, h2.events.WindowUpdated):
                    self.window.set()
            self.flush()

    async def take_frames(self):
        try:
            await self.take_all_frames()
        finally:
            self.messages.put_nowait(None)

    async def take_all_frames(self):
        from websockets.frames import Opcode
        while (piece := await self.data.get()) is not None:
            self.protocol.receive_data(piece)
            await self.put(b"".join(self.protocol.data_to_send()))
            for frame in self.protocol.events_received():
                if frame.opcode is Opcode.PONG:
                    self.ponged[bytes(frame.data)].set_result(0)
                elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    if frame.opcode is not Opcode.CONT:
                        self.kind = frame.opcode
                    self.partial.append(bytes(frame.data))
                    if frame.fin:
                        whole, self.partial = b"".join(self.partial), []
                        self.messages.put_nowait(whole.decode() if self.kind is Opcode.TEXT else whole)

    async def put(self, data):
        while data and self.reset is None:
            room = min(self.http.local_flow_control_window(self.id), self.http.max_outbound_frame_size, len(data))
            if room <= 0:
                self.window.clear()
                await asyncio.wait_for(self.window.wait(), 5)
                continue
            self.http.send_data(self.id, data[:room])
            data = data[room:]
            self.flush()
            await self.writer.drain()

    async def send(self, message):
        if hasattr(message, "__next__"):
            pieces = list(message)
            self.protocol.send_text(pieces[0].encode(), fin=False)
            for piece in pieces[1:]:
                self.protocol.send_continuation(piece.encode(), fin=piece is pieces[-1])
        elif isinstance(message, str):
            self.protocol.send_text(message.encode())
        else:
            self.protocol.send_binary(message)
        await self.put(b"".join(self.protocol.data_to_send()))

    async def ping(self, data=b"ping"):
        self.ponged[data] = asyncio.get_running_loop().create_future()
        self.protocol.send_ping(data)
        await self.put(b"".join(self.protocol.data_to_send()))
        return self.ponged[data]

    async def recv(self):
        message = await self.messages.get()
        if message is None:
            self.messages.put_nowait(None)
            received, sent = self.protocol.close_rcvd, self.protocol.close_sent
            raise websockets.ConnectionClosedError(received, sent, True if received and sent else None)
        return message

    async def close(self, code=1000, reason=""):
        if self.protocol.state is websockets.State.OPEN:
            self.protocol.send_close(code, reason)
            await self.put(b"".join(self.protocol.data_to_send()))
        try:
            await asyncio.wait_for(self.frames, 5)
        except (asyncio.TimeoutError, asyncio.CancelledError):
            pass
        received = self.protocol.close_rcvd
        self.close_code = received.code if received else None
        self.reading.cancel()
        self.writer.close()


class Over2:
    """Over HTTP/2, a connection for each, by `h2`."""

    def __init__(self, port, tls):
        self.port, self.tls = port, tls

    def open(self, path, **options):
        return Stream(self, path, **options)


@case
async def another_protocol_is_501(over):
    if isinstance(over, Over2):
        response = await refused(over, "/echo/", 501, named="connect-udp")
        same(json.loads(response.body)["code"], "RW-2409")


@case
async def an_operation_that_is_none_is_400_over_http2(over):
    if isinstance(over, Over2):
        response = await refused(over, "/plain/x", 400)
        same(json.loads(response.body)["code"], "RW-2410")


@case
async def a_2xx_of_the_upstream_opens_nothing(over):
    # Over HTTP/2 it opens.
    if isinstance(over, Over2) and not bridge.heads:
        response = await refused(over, "/echo/plain", 502)
        same(json.loads(response.body)["code"], "RW-4303")


@case
async def the_upstream_is_asked_as_by_http1(over):
    heads_at_origin.clear()
    async with over.open("/echo/asked?x=1"):
        pass
    if bridge.heads:
        asked = dict(bridge.heads[-1])
        same([asked.get(name) for name in (":method", ":protocol", ":scheme", ":path", "sec-websocket-version")],
             ["CONNECT", "websocket", "http", "/echo/asked?x=1", "13"])
        same({"sec-websocket-key", "upgrade", "connection"} & set(asked), set())
        return
    (path, fields), = heads_at_origin
    lower = {name.lower(): value for name, value in fields.items()}
    same((path, lower["upgrade"], lower["connection"], lower["sec-websocket-version"]),
         ("/echo/asked?x=1", "websocket", "Upgrade", "13"))
    assert "x-request-id" in lower and "x-forwarded-for" in lower, fields


async def run_cases(arguments):
    ways = {
        "h1": Over1(f"ws://127.0.0.1:{arguments.plain}"),
        "h1 tls": Over1(f"wss://127.0.0.1:{arguments.tls}"),
        "h2 tls": Over2(arguments.tls, True),
        "h2c": Over2(arguments.h2c, False),
    }
    before = await bridge.bridge(arguments.bridge, arguments.origin) if arguments.bridge else contextlib.nullcontext()
    async with await origin(arguments.origin), before:
        for name, over in ways.items():
            for function in CASES:
                if arguments.only and arguments.only not in f"{name}: {function.__name__}":
                    continue
                record = {"id": f"{name}: {function.__name__}", "state": "passed"}
                closed_at_origin.clear()
                try:
                    await asyncio.wait_for(function(over), 20)
                except Exception as error:  # noqa: BLE001: whatever it is, it is told
                    record.update(state="failed", came=f"{type(error).__name__}: {error}")
                print(json.dumps(record), flush=True)


async def run_hold(arguments):
    headers = dict(header.split(":", 1) for header in arguments.header)
    async with await origin(arguments.origin):
        path = "/" + arguments.url.split("/", 3)[3]
        port = int(arguments.url.split(":")[2].split("/")[0])
        sockets = []
        for _ in range(arguments.count):
            if arguments.h2:
                sockets.append(await Over2(port, arguments.url.startswith("wss")).open(path, additional_headers=headers))
            else:
                base = arguments.url[: -len(path)]
                sockets.append(await Over1(base).open(path, additional_headers=headers))
        print("open", flush=True)
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        while line := (await lines.readline()).decode().strip():
            if line == "echo":
                for socket in sockets:
                    await socket.send("still there?")
                for socket in sockets:
                    same(await asyncio.wait_for(socket.recv(), 10), "still there?")
                print("echoed", flush=True)
            elif line == "wait":
                codes = {}
                for socket in sockets:
                    ended = await ends(socket, 30)
                    codes[str(ended)] = codes.get(str(ended), 0) + 1
                print(json.dumps(codes), flush=True)
            elif line == "end":
                break
        for socket in sockets:
            await socket.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    cases = commands.add_parser("cases")
    for name in ["plain", "tls", "h2c"]:
        cases.add_argument(f"--{name}", type=int, required=True)
    cases.add_argument("--origin", required=True)
    cases.add_argument("--bridge")
    cases.add_argument("--only", default="")
    hold = commands.add_parser("hold")
    hold.add_argument("count", type=int)
    hold.add_argument("--url", required=True)
    hold.add_argument("--origin", required=True)
    hold.add_argument("--header", action="append", default=[])
    hold.add_argument("--h2", action="store_true")
    arguments = parser.parse_args()
    asyncio.run(run_cases(arguments) if arguments.command == "cases" else run_hold(arguments))
