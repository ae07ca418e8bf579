"""The origin behind what is tested: it speaks strict HTTP/1.1, keeps every request as it came, and does what the path says.

| path | answer |
|---|---|
| `/ok` | 200, `ok` |
| `/seen` | 200, what was seen of the request, in JSON |
| `/echo` | 200, the body, as it comes |
| `/size/N`, `/chunked/N` | 200, N bytes of the pattern, by length or in chunks |
| `/status/N` | N, nothing else |
| `/hold` | nothing, ever; the body is not read |
| `/trailers` | 200 in chunks, with two trailers |
| `/early-hints` | 103 with a Link, then 200 |
| `/continue` | 100 where it is expected, then what `/seen` says |
| `/enough` | 413 as soon as the head is there, and the end of the connection |
| `/enough-kept` | 200 as soon as the head is there, the body is read and forgotten |
| `/cut/N` | the head of a response of N bytes, half of them, and the end of the connection |
| `/cut-chunked/N` | the same in chunks |
| `/fields/N/SIZE` | 200 with N fields of SIZE bytes |
| `/connection` | 200 with fields that concern one connection only |
| `/cookies` | 200 with two Set-Cookie |
| `/page` | a page whose script asks for most of these, for a browser |
"""

import asyncio
import hashlib
import json
import pathlib
import re
import select
import socket

TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
TARGET = re.compile(rb"(/[!-~]*|\*)\Z")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")


def pattern(count):
    """A body in which what is missing, doubled or swapped shows; made at once, because nobody else runs meanwhile."""
    return hashlib.shake_128(b"pattern").digest(count)


class Record:
    def __init__(self, head):
        self.head = head
        self.method = self.target = b""
        self.fields = []
        self.body_bytes = 0
        self.digest = hashlib.sha256()
        self.trailers = []
        self.whole = False
        self.aborted = False  # the connection ended before the answer did
        self.sent = 0
        self.wrong = None

    def values(self, name):
        return [value for found, value in self.fields if found.lower() == name]


class Wrong(Exception):
    pass


class Origin:
    def __init__(self):
        self.records = []
        self.server = None
        self.changed = asyncio.Event()

    async def start(self, host, port):
        self.server = await asyncio.start_server(self.serve, host, port, limit=1 << 20, backlog=1024)
        return self.server.sockets[0].getsockname()[1]

    def of(self, token):
        token = token.encode()
        return [record for record in self.records if token in record.head]

    async def sees(self, holds, seconds=5.0):
        """Waits until what is recorded fulfils a condition."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not holds():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), min(left, 0.25))
            except (TimeoutError, asyncio.TimeoutError):
                pass
        return True

    async def serve(self, reader, writer):
        writer.transport.set_write_buffer_limits(high=1 << 16)
        try:
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError as error:
                    if error.partial:
                        self.keep_wrong(error.partial, "the connection ended within a head")
                    return
                record = Record(head)
                self.records.append(record)
                self.changed.set()
                try:
                    self.parse(record)
                    if not await self.answer(record, reader, writer):
                        return
                except Wrong as error:
                    record.wrong = str(error)
                    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    return
                except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
                    record.aborted = True
                    return
                finally:
                    self.changed.set()
        except (OSError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def keep_wrong(self, head, why):
        record = Record(head)
        record.wrong = why
        self.records.append(record)
        self.changed.set()

    def parse(self, record):
        lines = record.head[:-4].split(b"\r\n")
        words = lines[0].split(b" ")
        if len(words) != 3 or not TOKEN.match(words[0]) or not TARGET.match(words[1]) or words[2] != b"HTTP/1.1":
            raise Wrong(f"request line {lines[0]!r}")
        record.method, record.target = words[0], words[1]
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not TOKEN.match(name) or not VALUE.match(value):
                raise Wrong(f"field line {line!r}")
            record.fields.append((name, value.strip(b" \t")))
        if len(record.values(b"host")) != 1:
            raise Wrong(f"{len(record.values(b'host'))} Host fields")
        lengths, codings = record.values(b"content-length"), record.values(b"transfer-encoding")
        if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
            raise Wrong(f"framing by {lengths} and {codings}")
        if codings and codings[0].lower() != b"chunked":
            raise Wrong(f"Transfer-Encoding {codings[0]!r}")
        if lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
            raise Wrong(f"Content-Length {lengths[0]!r}")

    async def body(self, record, reader):
        """The pieces of the body."""
        if record.values(b"transfer-encoding"):
            while True:
                line = await reader.readuntil(b"\r\n")
                size = line[:-2].split(b";")[0].strip()
                if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
                    raise Wrong(f"chunk {line!r}")
                left = int(size, 16)
                if left == 0:
                    break
                while left:
                    piece = await reader.read(min(left, 1 << 16))
                    if not piece:
                        raise asyncio.IncompleteReadError(b"", left)
                    left -= len(piece)
                    yield self.note(record, piece)
                if await reader.readexactly(2) != b"\r\n":
                    raise Wrong("a chunk that does not end")
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                name, colon, value = line[:-2].partition(b":")
                if not colon or not TOKEN.match(name) or not VALUE.match(value):
                    raise Wrong(f"trailer {line!r}")
                record.trailers.append((name, value.strip(b" \t")))
        else:
            left = int((record.values(b"content-length") or [b"0"])[0])
            while left:
                piece = await reader.read(min(left, 1 << 16))
                if not piece:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(piece)
                yield self.note(record, piece)
        record.whole = True
        self.changed.set()

    def note(self, record, piece):
        record.body_bytes += len(piece)
        record.digest.update(piece)
        return piece

    async def drain(self, record, reader):
        async for _ in self.body(record, reader):
            pass

    async def answer(self, record, reader, writer):
        """Whether the connection goes on."""
        path = record.target.split(b"?")[0].decode()
        word, *numbers = path.strip("/").split("/")
        numbers = [int(number) for number in numbers if number.isdigit()]
        head = record.method == b"HEAD"

        async def send(data):
            writer.write(data)
            await writer.drain()
            record.sent += len(data)

        async def respond(status, body=b"", fields=(), length=True):
            lines = [f"HTTP/1.1 {status}"] + [f"{name}: {value}" for name, value in fields]
            if length:
                lines.append(f"Content-Length: {len(body)}")
            await send("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head else body))
            return True

        async def chunk(data):
            await send(b"%x\r\n%s\r\n" % (len(data), data))

        if word == "hold":
            # What is not read fills little, so that windows close soon.
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await self.gone(record, reader, writer)
            return False
        if word == "enough":
            await respond("413 Content Too Large", b"enough", [("Connection", "close")])
            # RFC 9112 §9.6: a close with bytes that nobody read resets the connection, and the answer with it.
            writer.write_eof()
            while await asyncio.wait_for(reader.read(1 << 16), 5):
                pass
            return False
        if word == "enough-kept":
            await respond("200 OK", b"enough")
            await self.drain(record, reader)
            return True
        if word == "echo":
            await send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            async for piece in self.body(record, reader):
                await chunk(piece)
            await send(b"0\r\n\r\n")
            return True
        if word == "continue" and record.values(b"expect"):
            await send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self.drain(record, reader)
        if word == "size":
            return await respond("200 OK", pattern(numbers[0]))
        if word == "chunked":
            body = pattern(numbers[0])
            await send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            if not head:
                for at in range(0, len(body), 10_000):
                    await chunk(body[at : at + 10_000])
                await send(b"0\r\n\r\n")
            return True
        if word == "status":
            bare = numbers[0] in (204, 304)
            return await respond(f"{numbers[0]} Text", b"" if bare else b"status", length=not bare)
        if word == "trailers":
            await send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, x-end\r\n\r\n")
            if not head:
                await chunk(b"with trailers")
                await send(b"0\r\nX-Sum: 12\r\nX-End: yes\r\n\r\n")
            return True
        if word == "early-hints":
            await send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
            return await respond("200 OK", b"hinted")
        if word == "cut":
            await send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % numbers[0] + pattern(numbers[0] // 2))
            return False
        if word == "cut-chunked":
            await send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await chunk(pattern(numbers[0] // 2))
            return False
        if word == "fields":
            count, size = numbers
            return await respond("200 OK", b"fields", [(f"x-field-{at}", f"{at:06}" + "v" * (size - 6)) for at in range(count)])
        if word == "connection":
            await send(
                b"HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=60\r\nX-Hop: one\r\n"
                b"Upgrade: h2c\r\nProxy-Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n")
            if not head:
                await chunk(b"hop")
                await send(b"0\r\n\r\n")
            return True
        if word == "cookies":
            return await respond("200 OK", b"cookies", [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/")])
        if word in ("seen", "continue"):
            seen = {
                "method": record.method.decode(),
                "target": record.target.decode(),
                "fields": [[name.decode().lower(), value.decode("latin-1")] for name, value in record.fields],
                "body_bytes": record.body_bytes,
                "digest": record.digest.hexdigest(),
                "trailers": [[name.decode().lower(), value.decode("latin-1")] for name, value in record.trailers],
            }
            return await respond("200 OK", json.dumps(seen).encode(), [("Content-Type", "application/json")])
        if word == "page":
            page = pathlib.Path(__file__).with_name("page.html").read_bytes()
            return await respond("200 OK", page, [("Content-Type", "text/html; charset=utf-8")])
        if word in ("ok", "smuggled", "*", ""):
            return await respond("200 OK", b"ok\n", [("Content-Type", "text/plain")])
        return await respond("404 Not Found", b"not here\n")

    async def gone(self, record, reader, writer):
        """Waits for the end of a connection from which nothing is taken."""
        if not record.values(b"content-length") and not record.values(b"transfer-encoding"):
            record.whole = True
            self.changed.set()
            await reader.read(1)
            record.aborted = True
            return
        # The end would show only behind what is not read: the socket is asked for it.
        writer.transport.pause_reading()
        sock = writer.get_extra_info("socket")
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        while not writer.transport.is_closing() and not poll.poll(0):
            await asyncio.sleep(0.05)
        record.aborted = True
