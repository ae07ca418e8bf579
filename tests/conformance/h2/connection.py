"""One HTTP/2 connection of a client that sends what it is told, keeps all that comes, and checks it against the laws that
hold for a server whatever it is sent: windows, frame sizes, states of streams, field blocks, field rules.

What the laws need to know of what was sent (streams that were opened, windows that were granted, settings) is read from
the bytes as they leave, so that cases may write bytes as they like.
"""

import asyncio
import os
import socket
import ssl
import struct
import time

import hpack
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from frames import *

# How long anything may take that has to come.
PATIENCE = 5.0
CONNECTION_FIELDS = {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}


class Failed(Exception):
    """What came is not what has to come."""


class NotApplicable(Exception):
    """The case has no sense here."""


class Stream:
    def __init__(self, window):
        self.window = window  # what the server may still send
        self.method = None
        self.status = None
        self.informational = []
        self.fields = []
        self.trailers = None
        self.body = bytearray()
        self.ended = False
        self.reset = None
        self.reset_by_us = False

    def field(self, name):
        values = [value for found, value in self.fields if found == name]
        return b", ".join(values) if values else None

    @property
    def over(self):
        return self.ended or self.reset is not None

    def describe(self):
        parts = []
        if self.status is not None:
            parts.append(f"status {self.status}, {len(self.body)} bytes" + (", ended" if self.ended else ", not ended"))
        if self.reset is not None:
            parts.append(f"RST_STREAM {code_name(self.reset)}")
        return " and ".join(parts) or "nothing"


class Connection:
    def __init__(self, target, token):
        self.target = target
        self.token = token
        self.reader = self.writer = None
        self.credits = True  # whether DATA is answered with WINDOW_UPDATE
        self.kinds = []
        self.streams = {}
        self.goaways = []
        self.closed = False
        self.foreign = b""  # what came where frames should have come
        self.pongs = []
        self.pings = 0
        self.settings = {}  # the server's
        self.settings_frames = 0
        self.unacknowledged = []  # ours
        self.acknowledged = 0
        self.window = WINDOW_DEFAULT  # what the server may still send
        self.initial_window = WINDOW_DEFAULT
        self.frame_size = FRAME_DEFAULT
        self.send_window = WINDOW_DEFAULT
        self.send_windows = {}
        self.exact = True  # whether all DATA that was sent is counted in the windows
        self.highest = 0  # of the streams that anything was sent on
        self.broken_laws = []
        self.open_block = None
        self.decoder = hpack.Decoder(max_header_list_size=1 << 24)
        self.bytes_in = 0
        self.alpn = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.task = None
        self.unparsed = b""
        self.preface_left = PREFACE
        self.begun = False  # whether a frame was sent
        self.deferred = b""  # what would stand within a frame that is only half sent
        self.future = asyncio.get_running_loop().create_future()
        self.others = []

    # ---- opening and closing

    async def connect(self, context=None):
        tls = context or (self.target.context() if self.target.tls else None)
        self.reader, self.writer = await asyncio.wait_for(
            asyncio.open_connection(
                self.target.host, self.target.port, limit=1 << 20, ssl=tls,
                server_hostname=self.target.server_name if tls else None),
            PATIENCE)
        self.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.alpn = self.writer.get_extra_info("ssl_object").selected_alpn_protocol()
        self.task = asyncio.create_task(self.read())

    async def handshake(self, values=None):
        """The preface and settings of both sides, each acknowledged."""
        values = {ENABLE_PUSH: 0} if values is None else values
        await self.send(PREFACE + settings(values))
        await self.until(lambda: self.acknowledged and self.settings_frames)
        if not (self.acknowledged and self.settings_frames):
            raise Failed("no handshake: " + self.describe())

    async def another(self, values=None, handshake=True):
        """One more connection to the same place; its requests are not those of the case."""
        other = Connection(self.target, new_token())
        self.others.append(other)
        await other.connect()
        if handshake:
            await other.handshake(values)
        return other

    async def end(self):
        for other in self.others:
            await other.end()
        if self.task:
            self.task.cancel()
        if self.writer:
            self.writer.transport.abort()

    # ---- sending

    async def send(self, *pieces):
        """Writes these bytes; what the server does not want any more is lost in silence."""
        data = b"".join(pieces)
        self.note(data)
        if self.deferred and not self.within_a_frame:
            data += self.deferred
            self.deferred = b""
        await self.write(data)

    def reply(self, data):
        """Sends what answers a frame that came."""
        self.note_frames(data)
        if self.within_a_frame:
            self.deferred += data
        elif not self.writer.is_closing():
            self.writer.write(data)

    @property
    def within_a_frame(self):
        # Between the preface and the first frame nothing may stand either.
        return bool(self.unparsed) or (self.preface_left != PREFACE and not self.begun)

    async def blast(self, data, seconds=PATIENCE):
        """Writes without noting what it was: for floods. Whether all of it was taken in time."""
        self.exact = False
        return await self.write(data, seconds)

    async def write(self, data, seconds=PATIENCE):
        if self.closed:
            return False
        try:
            self.writer.write(data)
            await asyncio.wait_for(self.writer.drain(), seconds)
            return True
        except (OSError, ssl.SSLError, TimeoutError, asyncio.TimeoutError, RuntimeError):
            return False

    def note(self, data):
        """Takes in what was sent, as far as it changes what the server may do."""
        if self.preface_left:
            count = min(len(data), len(self.preface_left))
            if data[:count] != self.preface_left[:count]:
                self.preface_left = b""
            else:
                self.preface_left = self.preface_left[count:]
                data = data[count:]
        data = self.unparsed + data
        self.unparsed = self.note_frames(data)
        self.begun = self.begun or len(self.unparsed) < len(data)

    def note_frames(self, data):
        """Notes the whole frames; what is behind them."""
        at = 0
        while len(data) - at >= 9:
            high, low, kind, flags, stream = struct.unpack_from(">HBBBL", data, at)
            length = high << 8 | low
            if len(data) - at < 9 + length:
                break
            self.note_frame(kind, flags, stream & 0x7FFFFFFF, data[at + 9 : at + 9 + length])
            at += 9 + length
        return data[at:]

    def note_frame(self, kind, flags, stream, payload):
        self.highest = max(self.highest, stream)
        if kind == HEADERS and stream and stream not in self.streams:
            self.streams[stream] = Stream(self.initial_window)
            self.send_windows[stream] = self.settings.get(INITIAL_WINDOW_SIZE, WINDOW_DEFAULT)
        elif kind == DATA and stream in self.send_windows:
            self.send_window -= len(payload)
            self.send_windows[stream] -= len(payload)
        elif kind == RST_STREAM and stream in self.streams:
            self.streams[stream].reset_by_us = True
        elif kind == WINDOW_UPDATE and len(payload) == 4:
            increment = struct.unpack(">L", payload)[0] & 0x7FFFFFFF
            if stream == 0:
                self.window += increment
            elif stream in self.streams:
                self.streams[stream].window += increment
        elif kind == SETTINGS and not flags & ACK and not stream and len(payload) % 6 == 0:
            self.unacknowledged.append([struct.unpack_from(">HL", payload, at) for at in range(0, len(payload), 6)])

    async def upload(self, stream, body, size=FRAME_DEFAULT, end_stream=True, pad=None):
        """Sends a body as fast as the server's windows allow."""
        at = 0
        overhead = 0 if pad is None else pad + 1
        while at < len(body) or at == 0:
            await self.until(
                lambda: min(self.send_window, self.send_windows[stream]) > overhead
                or not body or self.streams[stream].over)
            if self.closed or self.streams[stream].over:
                return at
            room = min(self.send_window, self.send_windows[stream]) - overhead
            if room <= 0 and body:
                raise Failed(f"no window after {at} of {len(body)} bytes")
            piece = body[at : at + min(size, room)]
            at += len(piece)
            await self.send(data(stream, piece, end_stream and at == len(body), pad))
            if not body:
                break
        return at

    # ---- requests

    def fields(self, path="/ok", method="GET", more=(), drop=(), **pseudo):
        """The fields of a request that bears the case's token; pseudo-fields by name, `None` leaves one out."""
        if isinstance(path, str):
            path = self.path(path)
        values = {
            ":method": method,
            ":scheme": "https" if self.target.tls else "http",
            ":authority": self.target.authority,
            ":path": path,
        }
        values.update({":" + name: value for name, value in pseudo.items()})
        found = [(name, value) for name, value in values.items() if value is not None and name not in drop]
        return found + [("x-case", self.token)] + list(more)

    def path(self, path):
        if not self.target.origin:
            if path not in ("/ok", "/hold"):
                raise NotApplicable("there is no origin behind it")
            path = self.target.path
        return path + ("&" if "?" in path else "?") + "case=" + self.token

    @property
    def next_stream(self):
        return max([stream for stream in self.streams if stream % 2] + [-1]) + 2

    async def request(self, path="/ok", method="GET", body=None, stream=None, **more):
        """A right request; its stream."""
        stream = stream or self.next_stream
        await self.send(headers(stream, self.fields(path, method, **more), end_stream=body is None))
        self.streams[stream].method = method
        if body is not None:
            await self.upload(stream, body)
        return stream

    async def response(self, stream, seconds=PATIENCE):
        """The stream once it is over."""
        await self.until(lambda: self.streams[stream].over, seconds)
        found = self.streams[stream]
        if not found.over:
            raise Failed(f"stream {stream}: {found.describe()}; {self.describe()}")
        return found

    async def ask(self, path="/ok", method="GET", body=None, status=200, seconds=PATIENCE, **more):
        """A right request, and its response, which must have this status."""
        found = await self.response(await self.request(path, method, body, **more), seconds)
        if found.status != status or not found.ended:
            raise Failed(f"{method} {path}: {found.describe()} where {status} has to come")
        return found

    # ---- waiting

    async def until(self, holds, seconds=PATIENCE):
        deadline = time.monotonic() + seconds
        while not holds() and not self.closed:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                await asyncio.wait_for(asyncio.shield(self.future), left)
            except (TimeoutError, asyncio.TimeoutError):
                return holds()
        return holds()

    async def ping(self, seconds=PATIENCE):
        """Whether a PING comes back: all that was sent before it has been read."""
        self.pings += 1
        payload = struct.pack(">LL", 0x70696E67, self.pings)
        await self.send(ping(payload))
        return await self.until(lambda: payload in self.pongs, seconds)

    async def quiet(self):
        """Two round trips: what a server has to say about what was sent has come with the second, whatever overtakes what."""
        return await self.ping() and await self.ping()

    def pause(self):
        self.gate.clear()

    def resume(self):
        self.gate.set()

    def wake(self):
        if not self.future.done():
            self.future.set_result(None)
        self.future = asyncio.get_running_loop().create_future()

    # ---- what comes

    async def read(self):
        buffer = b""
        try:
            while True:
                await self.gate.wait()
                more = await self.reader.read(1 << 16)
                if not more:
                    break
                self.bytes_in += len(more)
                if self.foreign or (not self.kinds and not buffer and more.startswith(b"HTTP/1.")):
                    self.foreign += more
                    continue
                buffer += more
                while len(buffer) >= 9:
                    length = int.from_bytes(buffer[:3], "big")
                    if len(buffer) < 9 + length:
                        # A frame that is too large to come is told now.
                        if length > max(self.frame_size, 1 << 20):
                            self.law(f"a frame of {length} bytes")
                        break
                    self.take(buffer[:9], buffer[9 : 9 + length])
                    buffer = buffer[9 + length :]
                self.wake()
        except (OSError, ssl.SSLError):
            pass
        finally:
            self.closed = True
            self.wake()

    def law(self, what):
        if len(self.broken_laws) < 20:
            self.broken_laws.append(what)

    def take(self, head, payload):
        if len(payload) > self.frame_size:
            self.law(f"§4.2: a frame of {len(payload)} bytes, SETTINGS_MAX_FRAME_SIZE is {self.frame_size}")
        try:
            frame, _ = Frame.parse_frame_header(memoryview(head))
            frame.parse_body(memoryview(payload))
        except HyperframeError as error:
            self.law(f"§6: frame {head.hex()} {payload[:32].hex()}: {error!r}")
            return
        self.kinds.append(frame.type)
        if len(self.kinds) == 1 and (not isinstance(frame, SettingsFrame) or "ACK" in frame.flags):
            self.law(f"§3.4: the first frame is {frame!r}")
        if self.open_block and not (isinstance(frame, ContinuationFrame) and frame.stream_id == self.open_block[0].stream_id):
            self.law(f"§6.10: {frame!r} within a field block")
        if isinstance(frame, DataFrame):
            self.take_data(frame)
        elif isinstance(frame, HeadersFrame):
            self.open_block = (frame, bytearray(frame.data))
            if "END_HEADERS" in frame.flags:
                self.take_block()
        elif isinstance(frame, ContinuationFrame):
            if not self.open_block:
                return self.law("§6.10: CONTINUATION without HEADERS")
            self.open_block[1].extend(frame.data)
            if "END_HEADERS" in frame.flags:
                self.take_block()
        elif isinstance(frame, SettingsFrame):
            self.take_settings(frame)
        elif isinstance(frame, PingFrame):
            if "ACK" in frame.flags:
                self.pongs.append(bytes(frame.opaque_data))
            else:
                self.reply(ping(bytes(frame.opaque_data), ack=True))
        elif isinstance(frame, GoAwayFrame):
            if self.goaways and frame.last_stream_id > self.goaways[-1][0]:
                self.law("§6.8: GOAWAY with a last stream above that of the one before")
            self.goaways.append((frame.last_stream_id, frame.error_code, bytes(frame.additional_data)))
        elif isinstance(frame, RstStreamFrame):
            if frame.stream_id in self.streams:
                stream = self.streams[frame.stream_id]
                if stream.reset is None:
                    stream.reset = frame.error_code
            elif frame.stream_id > self.highest:
                self.law(f"§6.4: RST_STREAM on idle stream {frame.stream_id}")
        elif isinstance(frame, WindowUpdateFrame):
            self.take_window_update(frame)
        elif isinstance(frame, PushPromiseFrame):
            self.law("§6.6: PUSH_PROMISE though SETTINGS_ENABLE_PUSH is 0")

    def take_data(self, frame):
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            return self.law(f"§6.1: DATA on stream {frame.stream_id}, which is idle")
        size = frame.flow_controlled_length
        self.window -= size
        stream.window -= size
        # An empty frame may come whatever the windows are (§6.9).
        if size and self.window < 0:
            self.law(f"§6.9.1: {-self.window} bytes beyond the window of the connection")
        if size and stream.window < 0:
            self.law(f"§6.9.1: {-stream.window} bytes beyond the window of stream {frame.stream_id}")
        if stream.status is None:
            self.law("§8.1: DATA before HEADERS")
        if stream.over and not stream.reset_by_us:
            self.law(f"§5.1: DATA on stream {frame.stream_id} after its end")
        if stream.method == "HEAD" and frame.data:
            self.law("RFC 9110 §9.3.2: content in answer to HEAD")
        stream.body += frame.data
        if "END_STREAM" in frame.flags:
            self.finish(stream)
        if self.credits and size:
            update = window_update(0, size)
            if not stream.over:
                update += window_update(frame.stream_id, size)
            self.reply(update)

    def finish(self, stream):
        stream.ended = True
        length = stream.field(b"content-length")
        if length is not None and stream.method not in (None, "HEAD") and stream.status not in (204, 304):
            if not length.isdigit() or int(length) != len(stream.body):
                self.law(f"§8.1.1: content-length {length.decode()} with {len(stream.body)} bytes of DATA")

    def take_block(self):
        frame, block = self.open_block
        self.open_block = None
        try:
            fields = self.decoder.decode(bytes(block), raw=True)
        except hpack.HPACKError as error:
            return self.law(f"§4.3: field block {bytes(block)[:64].hex()}: {error!r}")
        stream = self.streams.get(frame.stream_id)
        if stream is None:
            return self.law(f"§5.1: HEADERS on stream {frame.stream_id}, which is idle")
        if stream.over and not stream.reset_by_us:
            self.law(f"§5.1: HEADERS on stream {frame.stream_id} after its end")
        fields = [(bytes(name), bytes(value)) for name, value in fields]
        pseudo = [(name, value) for name, value in fields if name.startswith(b":")]
        final = stream.status is not None
        for name, value in fields:
            if name.lower() != name or not name or any(byte <= 0x20 or byte >= 0x7F for byte in name):
                self.law(f"§8.2.1: field name {name!r}")
            if set(value) & {0, 10, 13} or value.strip(b" \t") != value:
                self.law(f"§8.2.1: field value {value!r}")
            if name in CONNECTION_FIELDS:
                self.law(f"§8.2.2: field {name.decode()}")
        if final:
            if pseudo:
                self.law("§8.1: pseudo-fields in a trailer section")
            if "END_STREAM" not in frame.flags:
                self.law("§8.1: trailers that do not end the stream")
            stream.trailers = fields
        else:
            good = len(pseudo) == 1 and fields[0] == pseudo[0] and pseudo[0][0] == b":status"
            if not good or len(pseudo[0][1]) != 3 or not pseudo[0][1].isdigit():
                return self.law(f"§8.3.2: {pseudo} in a response")
            status = int(pseudo[0][1])
            if status < 200:
                if status == 101:
                    self.law("§8.6: status 101")
                if "END_STREAM" in frame.flags:
                    self.law("§8.1: an informational response that ends the stream")
                stream.informational.append((status, fields[1:]))
            else:
                stream.status, stream.fields = status, fields[1:]
        if "END_STREAM" in frame.flags:
            self.finish(stream)

    def take_settings(self, frame):
        if "ACK" not in frame.flags:
            self.settings_frames += 1
            before = self.settings.get(INITIAL_WINDOW_SIZE, WINDOW_DEFAULT)
            self.settings.update(frame.settings)
            now = self.settings.get(INITIAL_WINDOW_SIZE, WINDOW_DEFAULT)
            for stream in self.send_windows:
                self.send_windows[stream] += now - before
            if frame.settings.get(ENABLE_PUSH, 0) != 0:
                self.law("§6.5.2: a server that sets SETTINGS_ENABLE_PUSH to 1")
            if now > WINDOW_MAX or not FRAME_DEFAULT <= frame.settings.get(MAX_FRAME_SIZE, FRAME_DEFAULT) < 1 << 24:
                self.law(f"§6.5.2: {frame!r}")
            self.reply(settings_ack())
            return
        self.acknowledged += 1
        if not self.unacknowledged:
            return self.law("§6.5.3: an acknowledgement of no SETTINGS")
        for name, value in self.unacknowledged.pop(0):
            # The server has applied them before it said so, and what it sends behind that obeys them.
            if name == INITIAL_WINDOW_SIZE and value <= WINDOW_MAX:
                for stream in self.streams.values():
                    stream.window += value - self.initial_window
                self.initial_window = value
            elif name == MAX_FRAME_SIZE and FRAME_DEFAULT <= value < 1 << 24:
                self.frame_size = value
            elif name == HEADER_TABLE_SIZE:
                self.decoder.max_allowed_table_size = value

    def take_window_update(self, frame):
        if frame.stream_id == 0:
            self.send_window += frame.window_increment
            if self.exact and self.send_window > WINDOW_MAX:
                self.law("§6.9.1: a window of the connection above 2^31-1")
        elif frame.stream_id in self.send_windows:
            self.send_windows[frame.stream_id] += frame.window_increment
            if self.exact and self.send_windows[frame.stream_id] > WINDOW_MAX:
                self.law("§6.9.1: a window of a stream above 2^31-1")
        elif frame.stream_id > self.highest:
            self.law(f"§5.1: WINDOW_UPDATE on idle stream {frame.stream_id}")

    def describe(self):
        parts = [f"GOAWAY {code_name(code)} (last {last})" for last, code, _ in self.goaways]
        parts += [f"stream {number}: {stream.describe()}" for number, stream in list(self.streams.items())[:4]]
        if self.foreign:
            parts.append(f"no HTTP/2 but {self.foreign[:40]!r}")
        parts.append("closed" if self.closed else "open")
        return ", ".join(parts)


class Target:
    """Where the server is, and what is known of it."""

    def __init__(self, host, port, tls, authority=None, path="/", origin=None, drain=None):
        self.host, self.port, self.tls = host, port, tls
        self.authority = authority or f"{host}:{port}"
        name = self.authority.rsplit(":", 1)[0]
        self.server_name = name if any(letter.isalpha() for letter in name) else None
        self.path, self.origin, self.drain = path, origin, drain

    def context(self, alpn=("h2",)):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


def new_token():
    return "t" + os.urandom(6).hex()
