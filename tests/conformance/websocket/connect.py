"""WebSockets to upstreams of HTTP/2 (RFC 8441), as those end, stall, reset and refuse them; from clients of HTTP/1.1 and HTTP/2.

    connect.py --http1 PORT --http2 PORT --pid PID --takes ADDRESS:PORT --bare ADDRESS:PORT --silent ADDRESS:PORT
               --node ADDRESS:PORT

The node, whose process is PID, has to serve what `tests/it/websocket.rs` configures. The upstreams are started here: one that takes
WebSockets, one that takes none, one that never says anything, and Node's. Prints one JSON object a line for each case.
"""

import argparse
import asyncio
import json
import struct
import time
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

import bridge
from suite import Over1, Over2, ends, refused, same

AT_ONCE_S = 1.5
FLOOD_BYTES = 32 << 20  # in messages of 64 KiB
MESSAGE = b"x" * 65_536
# By the node: a stream's window, 256 KiB at most, and what is on its way. By the kernel, in the buffers of four sockets, far more.
HELD_BYTES_MAX = 2 << 20
SENT_BYTES_MAX = 16 << 20

ended = asyncio.Queue()  # how each stream ended for the upstream: (path, what it heard last)
refused_once = []


class Scripted(bridge.Stream):
    """What the upstream does hangs on the path."""

    def cancel(self, reset=False):
        if not self.task.done():
            ended.put_nowait((self.path, "reset"))
        super().cancel(reset)

    async def relay(self):
        http = self.connection.http
        self.path = dict(self.fields)[":path"]
        name = self.path.rsplit("/", 1)[1]
        if name == "refuse" and not refused_once:
            refused_once.append(1)
            http.reset_stream(self.number, 7)
            return
        if name == "plain":
            http.send_headers(self.number, [(":status", "403"), ("content-length", "2")])
            return await self.put(b"no", end=True)
        fields = [("content-length", "0")] if name == "length" else []
        http.send_headers(self.number, [(":status", "200"), *fields])
        self.connection.flush()
        if name == "flood":
            head = b"\x82\x7f" + len(MESSAGE).to_bytes(8, "big")
            for _ in range(FLOOD_BYTES // len(MESSAGE)):
                await self.put(head + MESSAGE)
            return await self.put(b"\x88\x02\x03\xe8", end=True)
        if name == "stall":
            await asyncio.Event().wait()
        if name == "reset":
            http.reset_stream(self.number, 2)
            return
        if name == "end":
            return await self.put(b"", end=True)
        if name == "goaway":
            http.close_connection(last_stream_id=self.number)
            self.connection.flush()
            http.state_machine.state = type(http.state_machine.state).SERVER_OPEN
        heard = b""
        while (came := await self.data.get()) is not None:
            piece, length = came
            http.acknowledge_received_data(length, self.number)
            heard += piece
            # A frame of a client, short and masked.
            while len(heard) >= 6 and len(heard) >= 6 + (heard[1] & 127):
                length = heard[1] & 127
                opcode, payload = heard[0] & 15, bytes(byte ^ heard[2 + at % 4] for at, byte in enumerate(heard[6:6 + length]))
                heard = heard[6 + length:]
                self.last = int.from_bytes(payload[:2], "big") if opcode == 8 else payload
                await self.put(bytes([128 | opcode, length]) + payload)
        ended.put_nowait((self.path, self.last))
        await self.put(b"", end=True)


async def ended_there(path):
    async with asyncio.timeout(5):
        while True:
            found, how = await ended.get()
            if found == path:
                return how


CASES = []


def case(function):
    CASES.append(function)
    return function


@case
async def messages_pass_and_are_closed(over, _):
    async with over.open("/takes/echo") as socket:
        for message in ["a", "", "ä€", b"\x00\xff"]:
            await socket.send(message)
            same(await socket.recv(), message)
    same(await ended_there("/takes/echo"), 1000)


@case
async def a_server_of_node_is_an_upstream_like_any(over, _):
    async with over.open("/node/echo", subprotocols=["chat.v1", "chat.v2"]) as socket:
        same(socket.subprotocol, "chat.v2")
        for message in ["", "ä€😀", b"\x00\xff" * 50, "x" * 126, b"y" * 65_535, b"z" * 70_000, "w" * 1_000_000]:
            await socket.send(message)
            same(await socket.recv(), message)
        numbers = [str(number) * (number % 40) for number in range(1_000)]
        for number in numbers:
            await socket.send(number)
        for number in numbers:
            same(await socket.recv(), number)
        await asyncio.wait_for(await socket.ping(b"there?"), 5)
    same(socket.close_code, 1000)


@case
async def a_length_in_the_answer_says_nothing(over, _):
    async with over.open("/takes/length") as socket:
        await socket.send("a")
        same(await socket.recv(), "a")


@case
async def another_answer_is_passed_on(over, _):
    response = await refused(over, "/takes/plain", 403)
    same(response.body, b"no")


@case
async def each_has_a_connection_that_ends_with_it(over, _):
    before = len(bridge.connections)
    one, two = await over.open("/takes/echo"), await over.open("/takes/echo")
    same(len(bridge.connections), before + 2)
    mine = bridge.connections[before:]
    await one.close()
    await two.close()
    async with asyncio.timeout(5):
        for connection in mine:
            await connection.over.wait()


@case
async def who_takes_none_is_not_asked(over, _):
    begun = time.monotonic()
    for _ in range(2):
        response = await refused(over, "/bare/echo", 502)
        same(json.loads(response.body)["code"], "RW-4310")
    assert time.monotonic() - begun < AT_ONCE_S
    same([head for head in bridge.heads if dict(head)[":path"].startswith("/bare/")], [])


@case
async def who_says_nothing_is_waited_for_as_for_a_connection(over, _):
    begun = time.monotonic()
    response = await refused(over, "/silent/echo", 504)
    same(json.loads(response.body)["reason"], "upstream_connect_timeout")
    took = time.monotonic() - begun
    assert 0.4 < took < 2, took


@case
async def one_that_was_refused_is_asked_again(over, _):
    refused_once.clear()
    async with over.open("/takes/refuse") as socket:
        await socket.send("a")
        same(await socket.recv(), "a")
    same(refused_once, [1])


@case
async def a_reset_of_the_upstream_ends_it_at_once(over, _):
    begun = time.monotonic()
    async with over.open("/takes/reset") as socket:
        same(await ends(socket), (1014, "upstream_websocket_cut"))
    assert time.monotonic() - begun < AT_ONCE_S


@case
async def an_end_of_the_stream_without_a_close_frame_is_a_cut(over, _):
    begun = time.monotonic()
    async with over.open("/takes/end") as socket:
        same(await ends(socket), (1014, "upstream_websocket_cut"))
    assert time.monotonic() - begun < AT_ONCE_S


@case
async def a_reset_of_the_client_ends_it_at_once(over, _):
    socket = await over.open("/takes/left")
    begun = time.monotonic()
    if isinstance(over, Over2):
        socket.http.reset_stream(socket.id, 8)
        socket.flush()
    else:
        socket.transport.abort()
    same(await ended_there("/takes/left"), 1001)
    assert time.monotonic() - begun < AT_ONCE_S
    if isinstance(over, Over2):
        socket.reading.cancel()
        socket.writer.close()


@case
async def an_end_of_the_clients_stream_without_a_close_frame_is_a_cut(over, _):
    if isinstance(over, Over2):
        socket = await over.open("/takes/ended")
        socket.http.end_stream(socket.id)
        socket.flush()
        same(await ended_there("/takes/ended"), 1001)
        socket.reading.cancel()
        socket.writer.close()


@case
async def goaway_takes_nothing_from_what_is_open(over, _):
    async with over.open("/takes/goaway") as socket:
        for _ in range(3):
            await socket.send("still")
            same(await socket.recv(), "still")


def resident(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


@case
async def who_reads_slowly_holds_up_the_upstream(over, pid):
    async with over.open("/takes/echo"):
        pass
    before = resident(pid)
    socket = await over.open("/takes/flood", **({} if isinstance(over, Over2) else {"max_queue": 1}))
    if isinstance(over, Over2):
        # Nothing is read, and no window opened.
        socket.reads.clear()
    (stream,) = bridge.connections[-1].streams.values()
    sent = await settles(lambda: stream.written)
    assert sent < SENT_BYTES_MAX, sent
    held = resident(pid) - before
    assert held < HELD_BYTES_MAX, held
    if isinstance(over, Over2):
        socket.reads.set()
    for _ in range(FLOOD_BYTES // len(MESSAGE)):
        same(await asyncio.wait_for(socket.recv(), 5), MESSAGE)
    same(await ends(socket), (1000, ""))


async def settles(value):
    """What a number comes to that grows until it stands still."""
    last, same_for = -1, 0
    async with asyncio.timeout(10):
        while same_for < 5:
            await asyncio.sleep(0.05)
            now = value()
            same_for, last = (same_for + 1, last) if now == last else (0, now)
    return last


@case
async def an_upstream_that_reads_slowly_holds_up_the_client(over, pid):
    async with over.open("/takes/echo"):
        pass
    before = resident(pid)
    socket = await over.open("/takes/stall")
    sent = 0

    async def send():
        nonlocal sent
        while True:
            await socket.send(MESSAGE)
            sent += len(MESSAGE)

    sending = asyncio.create_task(send())
    sent = await settles(lambda: sent)
    assert sent < SENT_BYTES_MAX, sent
    held = resident(pid) - before
    assert held < HELD_BYTES_MAX, held
    sending.cancel()
    begun = time.monotonic()
    # With a reset: an end would stand behind what nobody reads.
    raw = socket.transport.get_extra_info("socket")
    raw.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    socket.transport.abort()
    # What is on its way cannot be ended by a frame, and has a second to arrive.
    same(await ended_there("/takes/stall"), "reset")
    assert time.monotonic() - begun < 1 + AT_ONCE_S


async def run(arguments):
    async def nothing(reader, writer):
        await reader.read()
        writer.close()

    host, port = arguments.silent.rsplit(":", 1)
    upstreams = [
        await bridge.bridge(arguments.takes, ":0", kind=Scripted),
        await bridge.bridge(arguments.bare, ":0", settings={}, kind=Scripted),
        await asyncio.start_server(nothing, host, int(port)),
    ]
    script = Path(__file__).with_name("server.mjs")
    node = await asyncio.create_subprocess_exec("node", script, *arguments.node.rsplit(":", 1),
                                                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    same(await node.stdout.readline(), b"listens\n")
    ways = {"h1": Over1(f"ws://127.0.0.1:{arguments.http1}"), "h2": Over2(arguments.http2, False)}
    for name, over in ways.items():
        for function in CASES:
            if arguments.only not in f"{name}: {function.__name__}":
                continue
            record = {"id": f"{name}: {function.__name__}", "state": "passed"}
            try:
                await asyncio.wait_for(function(over, arguments.pid), 30)
            except Exception as error:  # noqa: BLE001: whatever it is, it is told
                record.update(state="failed", came=f"{type(error).__name__}: {error}")
            print(json.dumps(record), flush=True)
    for upstream in upstreams:
        upstream.close()
    node.stdin.close()
    await node.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ["http1", "http2", "pid"]:
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ["takes", "bare", "silent", "node"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--only", default="")
    asyncio.run(run(parser.parse_args()))
