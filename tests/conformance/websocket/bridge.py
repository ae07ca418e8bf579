"""An origin that takes WebSockets over HTTP/2 (RFC 8441): the frames of HTTP/2 are `h2`'s, what is behind them an origin of HTTP/1.1, to
which each extended CONNECT goes on as the Upgrade that it would be, and each other request as it is.
"""

import asyncio
import base64
import contextlib
import os

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

heads = []  # of every request: a list of fields
connections = []  # that there ever were

HIDDEN = ["connection", "upgrade", "keep-alive", "transfer-encoding", "sec-websocket-accept"]


class Connection:
    """One connection of HTTP/2, with these settings beside the defaults; each request is answered by a `Stream`, or another `kind`."""

    def __init__(self, reader, writer, behind, settings, kind):
        self.reader, self.writer, self.behind, self.kind = reader, writer, behind, kind
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8",
                                                                        validate_inbound_headers=False))
        initial = {**self.http.local_settings, **settings}
        self.http.local_settings = h2.settings.Settings(client=False, initial_values=initial)
        self.http.initiate_connection()
        self.streams, self.window, self.over = {}, asyncio.Event(), asyncio.Event()

    def flush(self):
        self.writer.write(self.http.data_to_send())

    async def frame(self):
        """One frame as it came; `h2` takes GOAWAY for the end of what is under way, which it is not (RFC 9113 §6.8)."""
        while True:
            head = await self.reader.readexactly(9)
            whole = head + await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] != 7:
                return whole

    async def serve(self):
        self.flush()
        try:
            self.http.receive_data(await self.reader.readexactly(24))
            while True:
                for event in self.http.receive_data(await self.frame()):
                    self.take(event)
                self.flush()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for stream in self.streams.values():
                stream.cancel(reset=True)
            self.writer.close()
            self.over.set()

    def take(self, event):
        if isinstance(event, h2.events.RequestReceived):
            heads.append(event.headers)
            self.streams[event.stream_id] = self.kind(self, event.stream_id, event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self.streams[event.stream_id].came(event)
        elif isinstance(event, h2.events.StreamEnded):
            self.streams[event.stream_id].data.put_nowait(None)
        elif isinstance(event, h2.events.StreamReset):
            self.streams[event.stream_id].cancel(reset=True)
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            self.window.set()


class Stream:
    def __init__(self, connection, number, fields):
        self.connection, self.number, self.fields = connection, number, fields
        self.data, self.out, self.written = asyncio.Queue(), None, 0
        self.task = asyncio.create_task(self.run())

    def came(self, event):
        self.data.put_nowait((event.data, event.flow_controlled_length))

    def cancel(self, reset=False):
        if reset and self.out is not None:
            self.out.transport.abort()
        self.task.cancel()

    async def run(self):
        http = self.connection.http
        try:
            await self.relay()
        except h2.exceptions.ProtocolError:
            pass  # It has been reset meanwhile.
        except (ConnectionError, asyncio.IncompleteReadError):
            with contextlib.suppress(h2.exceptions.ProtocolError):
                http.reset_stream(self.number, 2)
        finally:
            self.connection.flush()
            if self.out is not None:
                self.out.close()

    async def relay(self):
        fields = dict(self.fields)
        opens = fields.get(":protocol") == "websocket"
        back, self.out = await asyncio.open_connection(*self.connection.behind, limit=1 << 20)
        lines = [f"GET {fields[':path']} HTTP/1.1", f"Host: {fields[':authority']}"]
        if opens:
            lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)).decode()]
        lines += [f"{name}: {value}" for name, value in self.fields if not name.startswith(":")]
        self.out.write("\r\n".join([*lines, "", ""]).encode())
        status, *answer = (await back.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        status = status.split()[1]
        answer = [(name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in answer)]
        answer = [(name, value) for name, value in answer if name not in HIDDEN]
        if status != "101":
            body = await back.readexactly(int(dict(answer).get("content-length", 0)))
            self.connection.http.send_headers(self.number, [(":status", status), *answer])
            await self.put(body, end=True)
            return
        self.connection.http.send_headers(self.number, [(":status", "200"), *answer])
        self.connection.flush()
        up = asyncio.create_task(self.upward())
        try:
            while piece := await back.read(1 << 16):
                await self.put(piece)
            await self.put(b"", end=True)
            await up
        finally:
            up.cancel()

    async def upward(self):
        while (came := await self.data.get()) is not None:
            piece, length = came
            self.out.write(piece)
            # Whoever reads slowly behind it holds up what is before it.
            await self.out.drain()
            self.connection.http.acknowledge_received_data(length, self.number)
            self.connection.flush()
        self.out.write_eof()

    async def put(self, data, end=False):
        http = self.connection.http
        while data:
            room = min(http.local_flow_control_window(self.number), http.max_outbound_frame_size, len(data))
            if room <= 0:
                self.connection.window.clear()
                await self.connection.window.wait()
                continue
            http.send_data(self.number, data[:room])
            data = data[room:]
            self.written += room
            self.connection.flush()
            await self.connection.writer.drain()
        if end:
            http.end_stream(self.number)
            self.connection.flush()


TAKES = {h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}


async def bridge(address, behind, settings=TAKES, kind=Stream):
    """Serves on `address` what is at `behind`."""
    host, port = address.rsplit(":", 1)

    async def serve(reader, writer):
        connection = Connection(reader, writer, behind.rsplit(":", 1), settings, kind)
        connections.append(connection)
        await connection.serve()

    return await asyncio.start_server(serve, host, int(port))
