"""What an upstream may and may not say: README.md beside this file.

The server under test speaks HTTP/2 with prior knowledge to `--origin`, where this runs an upstream that answers each request with
the frames of the case that its path names; they are made by `hyperframe` and `hpack`, or byte by byte. A case says what the client
gets (over HTTP/1.1), and what the upstream is told: an error of the connection, of the stream, or nothing.
"""

import argparse
import asyncio
import json
import sys
import time

sys.dont_write_bytecode = True

import hpack
from hyperframe.frame import (
    ContinuationFrame, DataFrame, Frame, GoAwayFrame, HeadersFrame, PingFrame, PushPromiseFrame, RstStreamFrame,
    SettingsFrame,
)

from frames import *

PATIENCE = 5.0
CONNECTION_FIELDS = {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"host"}
CASES = {}


def case(id, section, what, make, status, told=None, first=None):
    """`make` gives the frames that answer the request on a stream. `status`: of the answer; `cut`: it is not whole, or none.
    `told`: what the upstream is told, as (kind, code)."""
    assert id not in CASES, id
    CASES[id] = (section, what, make, status, told, first)


def goes(*codes):
    return ("GOAWAY", codes)


def resets(*codes):
    return ("RST_STREAM", codes)


def head(s, *fields, status="200", **more):
    return headers(s, [(":status", status), *fields], **more)


def ok(s):
    return head(s)


def hello(s, *fields):
    return head(s, *fields, end_stream=False) + data(s, b"hello", True)


# ---- §3.4
case("preface.first_ping", "9113 §3.4", "PING before SETTINGS", lambda s: b"", 502, goes(PROTOCOL_ERROR), first=ping())
case("preface.first_ack", "9113 §3.4", "an acknowledgement before SETTINGS", lambda s: b"", 502, goes(PROTOCOL_ERROR),
     first=settings_ack())
case("preface.http1", "9113 §3.4", "an HTTP/1.1 response", lambda s: b"", 502, goes(PROTOCOL_ERROR, FRAME_SIZE_ERROR),
     first=b"HTTP/1.1 400 Bad Request\r\n\r\n")

# ---- §4
case("right", "9113 §8.1", "200 with a body", hello, 200)
case("frame.unknown", "9113 §4.1, §5.5", "a frame of an unknown type", lambda s: raw(0xBB, 0xFF, s, b"x") + ok(s), 200)
case("frame.reserved_bit", "9113 §4.1", "HEADERS with the reserved bit set",
     lambda s: raw(HEADERS, END_STREAM | END_HEADERS, s, block([(":status", "200")]), reserved=True), 200)
case("frame.undefined_flags", "9113 §4.1", "HEADERS with undefined flags set",
     lambda s: raw(HEADERS, END_STREAM | END_HEADERS | 0xC2, s, block([(":status", "200")])), 200)
case("size.data_largest", "9113 §4.2", "DATA of 2^14 bytes", lambda s: head(s, end_stream=False) + data(s, bytes(1 << 14), True), 200)
case("size.data_too_large", "9113 §4.2", "DATA larger than 2^14 bytes",
     lambda s: head(s, end_stream=False) + raw(DATA, END_STREAM, s, bytes((1 << 14) + 1)), "cut", goes(FRAME_SIZE_ERROR))
case("size.headers_too_large", "9113 §4.2", "HEADERS larger than 2^14 bytes",
     lambda s: raw(HEADERS, END_STREAM | END_HEADERS, s, bytes((1 << 14) + 1)), 502, goes(FRAME_SIZE_ERROR))
case("size.unknown_too_large", "9113 §4.2", "an unknown frame larger than 2^14 bytes", lambda s: raw(0xBB, 0, 0, bytes((1 << 14) + 1)),
     502, goes(FRAME_SIZE_ERROR))
for name, frame in [
    ("ping", lambda s: ping()), ("settings", lambda s: settings()), ("data", lambda s: data(s, b"x")),
    ("window_update", lambda s: window_update(0, 1)), ("rst_stream", lambda s: rst_stream(s)), ("unknown", lambda s: raw(0xBB, 0, s)),
    ("goaway", lambda s: goaway()), ("priority", lambda s: priority(s)), ("headers", lambda s: ok(s)),
    ("headers_of_another", lambda s: ok(s + 2)),
]:
    case(f"block.broken_by_{name}", "9113 §4.3, §6.10", f"HEADERS without END_HEADERS, then {name}",
         lambda s, frame=frame: head(s, end_headers=False) + frame(s), 502, goes(PROTOCOL_ERROR))

# ---- §4.3, RFC 7541
for name, what, bytes_ in [
    ("index_0", "index 0", b"\x80"), ("index_beyond", "an index behind both tables", b"\xff\x80\x20"),
    ("size_too_large", "a size update above 4096", table_size(4097) + b"\x88"), ("size_at_the_end", "a size update at the end", b"\x88\x20"),
    ("size_thrice", "three size updates", b"\x20\x20\x20\x88"), ("huffman_padding", "Huffman padding of zeros", b"\x88\x00\x01x\x81\x18"),
    ("huffman_eos", "EOS in a Huffman string", b"\x88\x00\x01x\x84\xff\xff\xff\xff"), ("integer", "an endless integer", b"\x88\xff" + b"\x80" * 40),
    ("string", "a string longer than the block", b"\x88\x00\x05x"),
]:
    case(f"hpack.{name}", "7541, 9113 §4.3", what, lambda s, b=bytes_: raw(HEADERS, END_STREAM | END_HEADERS, s, b), 502,
         goes(COMPRESSION_ERROR))
case("hpack.trailers", "9113 §4.3", "trailers that cannot be decoded",
     lambda s: head(s, end_stream=False) + raw(HEADERS, END_STREAM | END_HEADERS, s, b"\x80"), "cut", goes(COMPRESSION_ERROR))

# ---- §5.1
case("state.data_before_head", "9113 §5.1, §8.1", "DATA before HEADERS", lambda s: data(s, b"x", True), 502, resets(PROTOCOL_ERROR))
for name, frame in [("headers", lambda s: ok(s + 100)), ("data", lambda s: data(s + 100, b"x", True)), ("rst_stream", lambda s: rst_stream(s + 100)),
                    ("window_update", lambda s: window_update(s + 100, 1))]:
    case(f"state.idle_{name}", "9113 §5.1", f"{name} on a stream that was never opened", frame, 502, goes(PROTOCOL_ERROR))
case("state.even", "9113 §5.1.1", "HEADERS on stream 2", lambda s: ok(2), 502, goes(PROTOCOL_ERROR))
case("state.data_after_end", "9113 §5.1", "DATA behind END_STREAM", lambda s: ok(s) + data(s, b"x"), 200, goes(STREAM_CLOSED))
case("state.headers_after_end", "9113 §5.1", "HEADERS behind END_STREAM", lambda s: ok(s) + ok(s), 200, goes(STREAM_CLOSED))
case("state.window_update_after_end", "9113 §5.1", "WINDOW_UPDATE behind END_STREAM", lambda s: ok(s) + window_update(s, 1), 200)
case("state.rst_stream_after_end", "9113 §5.1, §8.1", "RST_STREAM NO_ERROR behind END_STREAM", lambda s: hello(s) + rst_stream(s, NO_ERROR), 200)
case("state.priority_of_idle", "9113 §5.1", "PRIORITY on an idle stream", lambda s: priority(s + 100) + ok(s), 200)

# ---- §6.1 to §6.4
case("data.stream_0", "9113 §6.1", "DATA on stream 0", lambda s: raw(DATA, 0, 0, b"x"), 502, goes(PROTOCOL_ERROR))
case("data.padded", "9113 §6.1", "DATA with padding", lambda s: head(s, end_stream=False) + data(s, b"hello", True, pad=255), 200)
case("data.pad_too_long", "9113 §6.1", "a Pad Length of all of the payload",
     lambda s: head(s, end_stream=False) + raw(DATA, PADDED | END_STREAM, s, b"\x03\0\0"), "cut", goes(PROTOCOL_ERROR))
case("headers.stream_0", "9113 §6.2", "HEADERS on stream 0", lambda s: raw(HEADERS, END_HEADERS, 0, b"\x88"), 502, goes(PROTOCOL_ERROR))
case("headers.padded_priority", "9113 §6.2", "HEADERS with padding and a priority", lambda s: head(s, pad=9, priority=(0, 1, False)), 200)
case("headers.pad_too_long", "9113 §6.2", "HEADERS whose padding is too long",
     lambda s: raw(HEADERS, PADDED | END_HEADERS | END_STREAM, s, b"\xff\x88"), 502, goes(PROTOCOL_ERROR))
case("priority.stream_0", "9113 §6.3", "PRIORITY on stream 0", lambda s: raw(PRIORITY, 0, 0, bytes(5)), 502, goes(PROTOCOL_ERROR))
case("priority.length_4", "9113 §6.3", "PRIORITY of 4 bytes", lambda s: raw(PRIORITY, 0, s, bytes(4)), 502, resets(FRAME_SIZE_ERROR))
case("rst_stream.stream_0", "9113 §6.4", "RST_STREAM on stream 0", lambda s: raw(RST_STREAM, 0, 0, bytes(4)), 502, goes(PROTOCOL_ERROR))
case("rst_stream.length_3", "9113 §6.4", "RST_STREAM of 3 bytes", lambda s: raw(RST_STREAM, 0, s, bytes(3)), 502, goes(FRAME_SIZE_ERROR))
case("rst_stream.unknown_code", "9113 §7, §5.4.2", "RST_STREAM with an unknown code", lambda s: rst_stream(s, 0xFEEDBEEF), 502)

# ---- §6.5
for name, frame, code in [
    ("ack_with_payload", lambda s: raw(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR), ("stream_1", lambda s: raw(SETTINGS, 0, 1), PROTOCOL_ERROR),
    ("length_5", lambda s: raw(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR), ("push_1", lambda s: settings_pairs((ENABLE_PUSH, 1)), PROTOCOL_ERROR),
    ("push_2", lambda s: settings_pairs((ENABLE_PUSH, 2)), PROTOCOL_ERROR),
    ("window_too_large", lambda s: settings_pairs((INITIAL_WINDOW_SIZE, 1 << 31)), FLOW_CONTROL_ERROR),
    ("frame_too_small", lambda s: settings_pairs((MAX_FRAME_SIZE, (1 << 14) - 1)), PROTOCOL_ERROR),
    ("frame_too_large", lambda s: settings_pairs((MAX_FRAME_SIZE, 1 << 24)), PROTOCOL_ERROR),
    ("connect_protocol_2", lambda s: settings_pairs((ENABLE_CONNECT_PROTOCOL, 2)), PROTOCOL_ERROR),
    ("connect_protocol_taken_back", lambda s: settings_pairs((ENABLE_CONNECT_PROTOCOL, 1), (ENABLE_CONNECT_PROTOCOL, 0)), PROTOCOL_ERROR),
]:
    case(f"settings.{name}", "9113 §6.5, §6.5.2, 8441 §3", name.replace("_", " "), frame, 502, goes(code))
case("settings.unknown", "9113 §6.5.2", "unknown settings", lambda s: settings_pairs((0, 1), (0xFFFF, 1)) + ok(s), 200)

# ---- §6.6 to §6.8
case("push_promise", "9113 §6.6, §8.4", "PUSH_PROMISE though we said no", lambda s: raw(PUSH_PROMISE, END_HEADERS, s, b"\0\0\0\x02\x82"), 502,
     goes(PROTOCOL_ERROR))
case("ping.length_7", "9113 §6.7", "PING of 7 bytes", lambda s: raw(PING, 0, 0, bytes(7)), 502, goes(FRAME_SIZE_ERROR))
case("ping.on_stream", "9113 §6.7", "PING on a stream", lambda s: raw(PING, 0, s, bytes(8)), 502, goes(PROTOCOL_ERROR))
case("ping.ack_of_nothing", "9113 §6.7", "PING with ACK that answers nothing", lambda s: ping(b"answered", ack=True) + ok(s), 200)
case("goaway.on_stream", "9113 §6.8", "GOAWAY on a stream", lambda s: raw(GOAWAY, 0, s, bytes(8)), 502, goes(PROTOCOL_ERROR))
case("goaway.length_7", "9113 §6.8", "GOAWAY of 7 bytes", lambda s: raw(GOAWAY, 0, 0, bytes(7)), 502, goes(FRAME_SIZE_ERROR))
case("goaway.grows", "9113 §6.8", "GOAWAY whose last stream is above that of the one before",
     lambda s: goaway(s, NO_ERROR) + goaway(s + 2, NO_ERROR), 502, goes(PROTOCOL_ERROR))

# ---- §6.9, §6.10
case("window_update.zero", "9113 §6.9", "an increment of 0 of the connection", lambda s: raw(WINDOW_UPDATE, 0, 0, bytes(4)), 502,
     goes(PROTOCOL_ERROR))
case("window_update.zero_stream", "9113 §6.9", "an increment of 0 of a stream", lambda s: raw(WINDOW_UPDATE, 0, s, bytes(4)), 502,
     resets(PROTOCOL_ERROR))
case("window_update.length_3", "9113 §6.9", "WINDOW_UPDATE of 3 bytes", lambda s: raw(WINDOW_UPDATE, 0, 0, bytes(3)), 502,
     goes(FRAME_SIZE_ERROR))
case("window_update.overflow", "9113 §6.9.1", "a window of the connection above 2^31-1", lambda s: window_update(0, WINDOW_MAX) * 2, 502,
     goes(FLOW_CONTROL_ERROR))
case("window_update.overflow_stream", "9113 §6.9.1", "a window of a stream above 2^31-1", lambda s: window_update(s, WINDOW_MAX) * 2, 502,
     resets(FLOW_CONTROL_ERROR))
case("continuation.pieces", "9113 §6.10", "a head in four frames, one of them empty", lambda s: headers(s, b"", end_headers=False)
     + continuation(s, b"\x88", False) + continuation(s, b"", False) + continuation(s, literal(b"x", b"y")), 200)
case("continuation.alone", "9113 §6.10", "CONTINUATION without HEADERS", lambda s: continuation(s, b"\x88"), 502, goes(PROTOCOL_ERROR))
case("continuation.of_another", "9113 §6.10", "CONTINUATION on another stream",
     lambda s: head(s, end_headers=False) + continuation(s + 2, b""), 502, goes(PROTOCOL_ERROR))
case("continuation.stream_0", "9113 §6.10", "CONTINUATION on stream 0",
     lambda s: head(s, end_headers=False) + raw(CONTINUATION, END_HEADERS, 0), 502, goes(PROTOCOL_ERROR))

# ---- §8
case("message.informational", "9113 §8.1", "100, 103, 200", lambda s: head(s, status="100", end_stream=False)
     + head(s, status="103", end_stream=False) + hello(s), 200)
case("message.informational_end", "9113 §8.1", "103 with END_STREAM", lambda s: head(s, status="103"), 502, resets(PROTOCOL_ERROR))
case("message.informational_data", "9113 §8.1", "DATA behind 103", lambda s: head(s, status="103", end_stream=False) + data(s, b"x", True), 502,
     resets(PROTOCOL_ERROR))
case("message.switching", "9113 §8.6", "101", lambda s: head(s, status="101", end_stream=False), 502,
     resets(PROTOCOL_ERROR))
case("message.two_heads", "9113 §8.1", "two final heads", lambda s: head(s, end_stream=False) * 2, "cut", resets(PROTOCOL_ERROR))
case("message.trailers", "9113 §8.1", "a body and trailers", lambda s: head(s, end_stream=False) + data(s, b"hello") + headers(s, [("x-sum", "1")]), 200)
case("message.pseudo_in_trailers", "9113 §8.1", "a pseudo-field in trailers",
     lambda s: head(s, end_stream=False) + headers(s, [(":status", "200")]), "cut", resets(PROTOCOL_ERROR))
for name, what, make in [
    ("long", "content-length 3 with 5 bytes", lambda s: hello(s, ("content-length", "3"))),
    ("short", "content-length 9 with 5 bytes", lambda s: hello(s, ("content-length", "9"))),
    ("short_by_trailers", "content-length 9 with 5 bytes and trailers",
     lambda s: head(s, ("content-length", "9"), end_stream=False) + data(s, b"hello") + headers(s, [("x-sum", "1")])),
]:
    case(f"length.{name}", "9113 §8.1.1", what, make, "cut", resets(PROTOCOL_ERROR))
case("length.without_body", "9113 §8.1.1", "content-length 5 and END_STREAM", lambda s: head(s, ("content-length", "5")), 502,
     resets(PROTOCOL_ERROR))
# The head has gone on, and no body goes with it.
case("length.of_204", "9113 §8.1.1, 9110 §15.3.5", "204 with a body",
     lambda s: head(s, status="204", end_stream=False) + data(s, b"x", True), 204, resets(PROTOCOL_ERROR))
case("length.not_modified", "9110 §8.6", "304 with content-length 5 and END_STREAM", lambda s: head(s, ("content-length", "5"), status="304"), 304)
for name, field in [
    ("upper_case", (b"X-Upper", b"1")), ("name_space", (b"x y", b"1")), ("name_nul", (b"x\0", b"1")), ("name_colon", (b"x:y", b"1")),
    ("name_empty", (b"", b"1")), ("name_crlf", (b"x: y\r\nz", b"1")), ("value_nul", (b"x", b"a\0b")), ("value_cr", (b"x", b"a\rb")),
    ("value_lf", (b"x", b"a\nb")), ("value_response", (b"x", b"a\r\n\r\nHTTP/1.1 200 OK")), ("connection", (b"connection", b"close")),
    ("keep_alive", (b"keep-alive", b"1")), ("proxy_connection", (b"proxy-connection", b"close")),
    ("transfer_encoding", (b"transfer-encoding", b"chunked")), ("upgrade", (b"upgrade", b"h2c")), ("status_twice", (b":status", b"200")),
    ("method", (b":method", b"GET")), ("unknown_pseudo", (b":unknown", b"1")),
]:
    case(f"field.{name}", "9113 §8.2, §8.3.2", f"the field {field!r}",
         lambda s, field=field: raw(HEADERS, END_STREAM | END_HEADERS, s, b"\x88" + literal(*field)), 502, resets(PROTOCOL_ERROR))
case("field.status_late", "9113 §8.3", "`:status` behind a field",
     lambda s: raw(HEADERS, END_STREAM | END_HEADERS, s, literal(b"x", b"y") + b"\x88"), 502, resets(PROTOCOL_ERROR))
case("field.no_status", "9113 §8.3.2", "no `:status`", lambda s: headers(s, [("x", "y")]), 502, resets(PROTOCOL_ERROR))
for status in ("", "20", "2000", "2x0", "+20", "099", "600"):
    case(f"status.{status or 'empty'}", "9113 §8.3.2, 9110 §15", f"`:status` of `{status}`", lambda s, status=status: head(s, status=status), 502,
         resets(PROTOCOL_ERROR))
case("priority_update", "9218 §7.1", "PRIORITY_UPDATE from a server", lambda s: priority_update(s), 502, goes(PROTOCOL_ERROR))


class Patient(asyncio.StreamReader):
    """What came before a reset is read nevertheless."""

    def set_exception(self, error):
        self.feed_eof()


class Upstream:
    """Serves all connections of the server under test, and holds what a client may say to the law."""

    def __init__(self):
        self.broken_laws = []
        self.tasks = set()
        # By case: what was said on the connection and on the stream that it was asked on.
        self.told = {}
        self.first = None

    async def serve(self, reader, writer):
        decoder, opened, closed = hpack.Decoder(), 0, False
        pongs, asked, goaways, resets_, settled = [], [], [], {}, False
        first, self.first = self.first, None
        law = self.broken_laws.append
        if await reader.readexactly(len(PREFACE)) != PREFACE:
            return law("§3.4: no preface")
        writer.write(first or settings())

        async def play(name, stream):
            """The frames of the case, then a PING that shows that they were read, and what else is to be said was."""
            writer.write(CASES[name][2](stream))
            payload = b"case%04d" % stream
            if not (CASES[name][4] or [None])[0] == "GOAWAY":
                writer.write(ping(payload))
            deadline = time.monotonic() + PATIENCE
            while payload not in pongs and not closed and time.monotonic() < deadline:
                await asyncio.sleep(0.005)
            self.told[name] = (goaways[-1] if goaways else None, resets_.get(stream), closed)

        if first is not None:
            asked.append(("first", 0))
        open_block = None
        try:
            while True:
                head = await reader.readexactly(9)
                frame, length = Frame.parse_frame_header(memoryview(head))
                payload = await reader.readexactly(length)
                frame.parse_body(memoryview(payload))
                if not settled and not isinstance(frame, SettingsFrame):
                    law(f"§3.4: the first frame is {frame!r}")
                if length > FRAME_DEFAULT:
                    law(f"§4.2: a frame of {length} bytes")
                if open_block and not isinstance(frame, ContinuationFrame):
                    law(f"§6.10: {frame!r} within a field block")
                if isinstance(frame, SettingsFrame):
                    if "ACK" not in frame.flags:
                        if not settled and frame.settings.get(ENABLE_PUSH) != 0:
                            law(f"§6.5.2: pushes are not declined: {frame!r}")
                        settled = True
                        writer.write(settings_ack())
                elif isinstance(frame, (HeadersFrame, ContinuationFrame)):
                    if isinstance(frame, HeadersFrame):
                        if frame.stream_id % 2 == 0 or frame.stream_id <= opened:
                            law(f"§5.1.1: stream {frame.stream_id} behind {opened}")
                        opened = frame.stream_id
                        open_block = [b"", frame]
                    open_block[0] += bytes(frame.data)
                    if "END_HEADERS" in frame.flags:
                        (coded, begun), open_block = open_block, None
                        fields = [(bytes(name), bytes(value)) for name, value in decoder.decode(coded, raw=True)]
                        for wrong in request_laws(fields):
                            law(wrong)
                        path = dict(fields).get(b":path", b"").decode()
                        asked.append((path.rsplit("/", 1)[-1], begun.stream_id))
                        if "END_STREAM" in begun.flags:
                            self.spawn(play(*asked[-1]))
                elif isinstance(frame, DataFrame):
                    if "END_STREAM" in frame.flags:
                        self.spawn(play(*asked[-1]))
                elif isinstance(frame, PingFrame):
                    if "ACK" in frame.flags:
                        pongs.append(bytes(frame.opaque_data))
                    else:
                        writer.write(ping(bytes(frame.opaque_data), ack=True))
                elif isinstance(frame, GoAwayFrame):
                    goaways.append(frame.error_code)
                    if first is not None:
                        self.told["first"] = (frame.error_code, None, True)
                elif isinstance(frame, RstStreamFrame):
                    if frame.stream_id > opened:
                        law(f"§6.4: RST_STREAM on idle stream {frame.stream_id}")
                    resets_.setdefault(frame.stream_id, frame.error_code)
                elif isinstance(frame, PushPromiseFrame):
                    law("§8.4: a client that pushes")
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        except Exception as error:
            law(f"what came cannot be read: {error!r}")
        finally:
            closed = True
            writer.transport.abort()

    def spawn(self, work):
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def request_laws(fields):
    pseudo = [name for name, _ in fields if name.startswith(b":")]
    if fields[: len(pseudo)] != [field for field in fields if field[0].startswith(b":")] or sorted(pseudo) != [
        b":authority", b":method", b":path", b":scheme"
    ]:
        yield f"§8.3.1: pseudo-fields {pseudo}"
    for name, value in fields:
        if name in CONNECTION_FIELDS:
            yield f"§8.2.2, §8.3.1: field {name.decode()}"
        if name != name.lower() or set(value) & {0, 10, 13} or value.strip(b" \t") != value:
            yield f"§8.2.1: field {name!r}: {value!r}"
        if name == b"te" and value != b"trailers":
            yield f"§8.2.2: te: {value!r}"


async def ask(host, port, name):
    """A request that is not sent again; its status, and whether the answer is whole."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"POST /case/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        came = await asyncio.wait_for(reader.read(-1), PATIENCE)
    finally:
        writer.transport.abort()
    status = 0
    while came.startswith(b"HTTP/1.1 "):
        lines, _, came = came.partition(b"\r\n\r\n")
        status = int(lines[9:12])
        if status >= 200:
            break
    fields = lines.lower().split(b"\r\n") if status else []
    length = next((int(line[15:]) for line in fields if line.startswith(b"content-length:")), None)
    whole = came.endswith(b"0\r\n\r\n") if b"transfer-encoding: chunked" in fields else status in (204, 304) or len(came) == length
    return status, whole


async def run(arguments):
    upstream = Upstream()
    host, port = arguments.origin.rsplit(":", 1)
    connection = lambda: asyncio.StreamReaderProtocol(Patient(), upstream.serve)
    server = await asyncio.get_running_loop().create_server(connection, host, int(port))
    results = []
    for name, (section, what, _, status, told, first) in CASES.items():
        if arguments.filter and arguments.filter not in name:
            continue
        upstream.first = first
        upstream.told.pop("first", None)
        try:
            found, whole = await ask(arguments.host, arguments.port, name)
        except (OSError, asyncio.TimeoutError, TimeoutError) as error:
            found, whole = repr(error), False
        came = f"{found}{'' if whole else ', cut'}"
        if status == "cut":
            good = not whole or found == 502
        else:
            good = whole and found == status
        of = name if first is None else "first"
        deadline = time.monotonic() + PATIENCE
        while of not in upstream.told and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        goaway_, reset, closed = upstream.told.get(of, (None, None, None))
        came += f"; GOAWAY {goaway_}, RST_STREAM {reset}, {'closed' if closed else 'open'}"
        if told is None:
            good = good and goaway_ is None and reset in (None, CANCEL, NO_ERROR)
        elif told[0] == "GOAWAY":
            good = good and goaway_ in told[1] and closed
        else:
            good = good and reset in told[1] and goaway_ is None
        results.append((name, section, what, f"{status}, {told}", came, good))
        if first is not None:
            # One that is well would carry the next of these.
            continue
        # Whatever it was, the next request is answered.
        found, whole = await ask(arguments.host, arguments.port, "right")
        if (found, whole) != (200, True):
            results.append((name + ".after", section, what, "200", f"{found}, {whole}", False))
    server.close()
    for task in [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
        task.cancel()
    for law in upstream.broken_laws:
        results.append(("law", "", "", "", law, False))
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--origin", required=True, metavar="HOST:PORT", help="where the upstream is to listen")
    parser.add_argument("--filter")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = asyncio.run(run(arguments))
    for name, section, what, expected, came, good in results:
        record = {"id": name, "section": section, "sent": what, "expected": expected, "came": came, "state": "passed" if good else "failed"}
        if arguments.json:
            print(json.dumps(record))
        elif not good:
            print(f"failed   {name}: {what}\n         expected: {expected}\n         came:     {came}")
    failed = sum(not good for *_, good in results)
    sum_ = {"passed": len(results) - failed, "failed": failed}
    print(json.dumps(sum_) if arguments.json else f"{sum_}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
