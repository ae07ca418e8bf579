"""Clients that mean harm: each is stopped by GOAWAY with ENHANCE_YOUR_CALM, or is shown to cost nothing, while a good client
beside it is served.

RFC 9113 §10.5 leaves to the server what it holds against whom, so these are laws of Ringwall's own.
"""

import asyncio

from connection import NotApplicable, Stream
from frames import *
from table import *

# The most that one flood sends.
FLOOD = 20_000


async def flood(c, pieces, seconds=8.0):
    """Sends pieces until the server has had enough; asks beside it on a connection of its own."""
    good = await c.another()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    batch = []
    asked = 0
    for sent, piece in enumerate(pieces):
        batch.append(piece)
        if len(batch) < 500:
            continue
        whole, batch = b"".join(batch), []
        if c.closed or c.goaways or loop.time() > end or not await c.blast(whole):
            break
        # What came is to be read in between.
        await asyncio.sleep(0)
        if sent > FLOOD // 4 * asked:
            asked += 1
            await good.ask(seconds=10)
    if batch and not c.closed:
        await c.blast(b"".join(batch))
    await good.ask(seconds=10)


class Lived(Outcome):
    """All of it was taken in, and the connection goes on: bounded, if nothing else."""

    def grade(self, connection, stream):
        return ALLOWED if getattr(connection, "lived", False) else None

    def __str__(self):
        return "all of it taken in at little cost"


def flooding(id, section, what, pieces, codes=(ENHANCE_YOUR_CALM,), before=None, ends=False, **more):
    """A flood; `ends` where nothing but the end of the connection will do."""
    outcome = connection_error(*codes) | ConnectionError_(range(14), narrow=False) | Lived()

    @case(id, section, what, f"{connection_error(*codes)}; a good client is served", law="gateway", alone=True, **more)
    async def _(c):
        if before:
            await before(c)
        await flood(c, pieces(c))
        if not ends and not c.goaways and not c.closed:
            c.lived = await c.ping(8)
        return outcome


def streams(start=1):
    return range(start, start + 2 * FLOOD, 2)


def prepared(**more):
    """Encodes the head of all requests of a flood once, and makes known their streams, which no law follows any more."""

    async def prepare(c):
        c.made = block(c.fields("/hold", **more))
        for stream in streams():
            c.streams[stream] = Stream(c.initial_window)
            c.streams[stream].reset_by_us = True

    return prepare


def opened(c, stream, end=True):
    return headers(stream, c.made, end_stream=end)


# ---- resets

flooding("abuse.rapid_reset", "9113 §10.5, CVE-2023-44487", "HEADERS and RST_STREAM, thousands of times",
         lambda c: (opened(c, stream) + rst_stream(stream) for stream in streams()), before=prepared())
flooding("abuse.rapid_reset_with_body", "9113 §10.5, CVE-2023-44487", "HEADERS, DATA and RST_STREAM, thousands of times",
         lambda c: (opened(c, stream, end=False) + data(stream, b"x") + rst_stream(stream) for stream in streams()),
         before=prepared(method="POST"))
# RFC 9113 lets a client send what makes the server reset a stream: CVE-2025-8671.
for name, what, tail, codes in [
    ("window_zero", "an increment of 0", lambda stream: raw(WINDOW_UPDATE, 0, stream, bytes(4)), ()),
    ("window_overflow", "an increment that overflows", lambda stream: window_update(stream, WINDOW_MAX), ()),
    ("half_closed_data", "DATA behind END_STREAM", lambda stream: data(stream, b"x"), (STREAM_CLOSED,)),
    ("half_closed_headers", "HEADERS behind END_STREAM", lambda stream: headers(stream, [("x", "y")]), (STREAM_CLOSED,)),
    ("priority_length", "PRIORITY of 4 bytes", lambda stream: raw(PRIORITY, 0, stream, bytes(4)), (FRAME_SIZE_ERROR,)),
]:
    flooding(f"abuse.made_you_reset.{name}", "9113 §10.5, CVE-2025-8671", f"requests, each followed by {what}",
             lambda c, tail=tail: (opened(c, stream) + tail(stream) for stream in streams()),
             (ENHANCE_YOUR_CALM,) + codes, before=prepared())
flooding("abuse.malformed_requests", "9113 §10.5", "malformed requests, thousands of them",
         lambda c: (headers(stream, [(":method", "GET")]) for stream in streams()), before=prepared())
flooding("abuse.length_mismatch", "9113 §10.5, CVE-2025-8671", "requests whose bodies are longer than they say",
         lambda c: (headers(stream, c.made, end_stream=False) + data(stream, b"xx", True) for stream in streams()),
         before=prepared(method="POST", more=[("content-length", "1")]))

# ---- frames that cost more than they say

flooding("abuse.settings", "9113 §10.5, CVE-2019-9515", "SETTINGS without end", lambda c: (settings({MAX_FRAME_SIZE: 20_000}) for _ in range(FLOOD)),
         before=lambda c: acknowledgements(c))
flooding("abuse.settings_empty", "9113 §10.5, CVE-2019-9515", "empty SETTINGS without end", lambda c: (settings() for _ in range(FLOOD)),
         before=lambda c: acknowledgements(c))
flooding("abuse.settings_ack", "9113 §10.5", "acknowledgements of nothing without end",
         lambda c: (settings_ack() for _ in range(FLOOD)), (ENHANCE_YOUR_CALM, PROTOCOL_ERROR))
flooding("abuse.ping", "9113 §10.5, CVE-2019-9512", "PING without end", lambda c: (ping() for _ in range(FLOOD)))
flooding("abuse.ping_ack", "9113 §10.5", "PING with ACK without end", lambda c: (ping(ack=True) for _ in range(FLOOD)))
flooding("abuse.priority", "9113 §10.5", "PRIORITY without end", lambda c: (priority(2 * at % 1000 + 1, 0, at % 256) for at in range(FLOOD)))
flooding("abuse.priority_update", "9218 §11", "PRIORITY_UPDATE without end",
         lambda c: (priority_update(2 * at % 1000 + 1) for at in range(FLOOD)), (ENHANCE_YOUR_CALM, PROTOCOL_ERROR))
flooding("abuse.window_update_connection", "9113 §10.5", "increments of 1 of the connection's window without end",
         lambda c: (window_update(0, 1) for _ in range(FLOOD)))
flooding("abuse.window_update_stream", "9113 §10.5", "increments of 1 of a stream's window without end",
         lambda c: (window_update(1, 1) for _ in range(FLOOD)), before=lambda c: c.send(headers(1, c.fields("/hold"))))
flooding("abuse.data_empty", "9113 §10.5, CVE-2019-9518", "empty DATA without END_STREAM without end",
         lambda c: (data(1) for _ in range(FLOOD)),
         before=lambda c: c.send(headers(1, c.fields("/seen", "POST"), end_stream=False)))
flooding("abuse.data_padding_only", "9113 §10.5", "DATA that is padding only, without end",
         lambda c: (data(1, b"", pad=0) for _ in range(FLOOD)), (ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR),
         before=lambda c: c.send(headers(1, c.fields("/seen", "POST"), end_stream=False)))
flooding("abuse.rst_stream", "9113 §10.5", "RST_STREAM of a closed stream without end",
         lambda c: (rst_stream(1) for _ in range(FLOOD)), before=lambda c: c.ask(), codes=(ENHANCE_YOUR_CALM, STREAM_CLOSED))
flooding("abuse.unknown_frames", "9113 §10.5", "empty frames of an unknown type without end",
         lambda c: (raw(0xBB, 0, 0) for _ in range(FLOOD)))


async def acknowledgements(c):
    c.unacknowledged += [[]] * FLOOD


# ---- field blocks

flooding("abuse.continuation_empty", "9113 §10.5, VU#421644", "empty CONTINUATION frames without end",
         lambda c: (continuation(1, b"", False) for _ in range(FLOOD)), (ENHANCE_YOUR_CALM, PROTOCOL_ERROR),
         before=lambda c: c.send(headers(1, block(c.fields()), end_headers=False)), origin="nothing", ends=True)
flooding("abuse.continuation_small", "9113 §10.5, VU#421644", "CONTINUATION frames of one small field without end",
         lambda c: (continuation(1, literal(b"x", b"y"), False) for _ in range(FLOOD)),
         (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR), origin="nothing", ends=True,
         before=lambda c: c.send(headers(1, block(c.fields()), end_headers=False)))
flooding("abuse.continuation_large", "9113 §10.5, VU#421644", "CONTINUATION frames of 16 KB without end",
         lambda c: (continuation(1, literal(b"x", b"y" * 16_000), False) for _ in range(4000)),
         (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR), origin="nothing", ends=True,
         before=lambda c: c.send(headers(1, block(c.fields()), end_headers=False)))

refusal = Status(400, 499) | Reset(()) | ConnectionError_((ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR, INTERNAL_ERROR))


@case("abuse.hpack_bomb", "7541 §7.3", "an entry of 4,000 bytes, named 12,000 times by its index: 48 MB", "431 or an error",
      alone=True, origin="nothing", law="gateway")
async def _(c):
    good = await c.another()
    await c.send(headers(1, b"".join(literal(name.encode(), value.encode()) for name, value in c.fields()) +
                         literal(b"x-bomb", b"b" * 3900, ADDED) + indexed(62) * 12_000))
    await good.ask()
    return refusal


@case("abuse.hpack_bomb_of_cookies", "7541 §7.3", "cookie crumbs by one index, 4,000 bytes each, 3,000 times",
      "431 or an error", alone=True, origin="nothing", law="gateway")
async def _(c):
    good = await c.another()
    await c.send(headers(1, b"".join(literal(name.encode(), value.encode()) for name, value in c.fields()) +
                         literal(b"cookie", b"c=" + b"c" * 3900, ADDED) + indexed(62) * 3000))
    await good.ask()
    return refusal


@case("abuse.table_churn", "7541 §7.3", "size updates between 0 and 4096, thousands of them before one block", "an error, or 200",
      alone=True, law="gateway")
async def _(c):
    good = await c.another()
    await c.send(headers(1, (table_size(0) + table_size(4096)) * 3000 + block(c.fields())))
    await good.ask()
    return answered() | refusal


# ---- clients that do not read, or do not go on


@case("abuse.unread_pings", "9113 §10.5, CVE-2019-9512", "PING without end by a client that reads nothing",
      "an end, or the server stops reading within 64 MB", alone=True, law="gateway")
async def _(c):
    good = await c.another()
    c.pause()
    batch = ping() * 50_000  # 850 KB
    taken = 0
    for _ in range(75):
        if not await c.blast(batch, 0.5):
            break
        taken += len(batch)
        if taken % (10 * len(batch)) == 0:
            await good.ask(seconds=10)
    demand(taken < 64 << 20, f"{taken} bytes of PING were taken in")
    await good.ask(seconds=10)


@case("abuse.zero_window_stall", "9113 §10.5, CVE-2019-9517", "100 requests of 1 MB by a client without a window",
      "the origin sends little, a good client is served", alone=True, law="gateway",
      settings={ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 0})
async def _(c):
    good = await c.another()
    c.credits = False
    count = min(100, c.settings.get(MAX_CONCURRENT_STREAMS, 100))
    await c.send(*(headers(2 * at + 1, c.fields("/size/1000000")) for at in range(count)))
    await c.until(lambda: all(stream.status for stream in c.streams.values()))
    for _ in range(5):
        await good.ask()
    demand(await c.quiet(), c.describe())
    sent = sum(record.sent for record in c.target.origin.of(c.token))
    demand(all(not stream.body for stream in c.streams.values()), "DATA without a window")
    # Of what the origin sends, the kernel holds a part on the way.
    demand(sent < 100 << 20, f"{sent} bytes")


@case("abuse.one_byte_windows", "9113 §10.5, CVE-2019-9511", "1 MB through windows of one byte", "a good client is served; the end, or bytes",
      alone=True, law="gateway", settings={ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 0})
async def _(c):
    good = await c.another()
    c.credits = False
    await c.request("/size/1000000")
    for _ in range(100):
        await c.send(*[window_update(1, 1)] * 20)
        if c.closed:
            break
    await good.ask()
    if not c.closed:
        await c.until(lambda: len(c.streams[1].body) == 2000 or c.closed)
    demand(c.closed or c.goaways or len(c.streams[1].body) == 2000, c.describe())


@case("abuse.half_a_head", "9113 §10.5", "HEADERS without END_HEADERS, and nothing more", "an end within 15 s", law="gateway",
      origin="nothing", seconds=16)
async def _(c):
    await c.send(headers(1, block(c.fields()), end_headers=False))
    return closed | Reset(()) | Status(408, 408)


for name, what, half in [
    ("head", "HEADERS without END_HEADERS", lambda c: headers(3, block(c.fields()), end_headers=False)),
    ("frame", "half of HEADERS", lambda c: headers(3, c.fields())[:-10]),
    ("trailers", "trailers without END_HEADERS", lambda c: headers(1, [("x-trailer", "1")], end_headers=False)),
]:
    @case(f"abuse.half_{name}_beside_a_request", "9113 §4.3, §10.5", f"a request that the origin holds, then {what}, and nothing more",
          "GOAWAY with ENHANCE_YOUR_CALM within 15 s", law="gateway", seconds=16)
    async def _(c, half=half):
        if not c.target.origin:
            raise NotApplicable("there is no origin behind it")
        # Nothing of ours is to stand in between.
        c.credits = False
        await c.send(headers(1, c.fields("/hold", "POST"), end_stream=False), half(c))
        demand(await c.until(lambda: c.closed, 15), c.describe())
        demand(c.goaways and c.goaways[-1][:2] == (1, ENHANCE_YOUR_CALM), c.describe())
        return closed


@case("abuse.half_a_preface", "9113 §10.5", "half a preface, and nothing more", "an end within 15 s", law="gateway",
      handshake=False, seconds=16)
async def _(c):
    await c.send(PREFACE[:12])
    return closed


@case("abuse.half_a_frame", "9113 §10.5", "the header of a HEADERS frame and half of its payload", "an end within 15 s",
      law="gateway", origin="nothing", seconds=16)
async def _(c):
    await c.send(headers(1, c.fields())[:-10])
    c.streams[1] = Stream(c.initial_window)
    return closed | Reset(())


# ---- a server that ends


@case("drain.goaway", "9113 §6.8", "a response under way when the server is told to end", "GOAWAY NO_ERROR; the response ends whole",
      alone=True, seconds=10)
async def _(c):
    if not c.target.drain:
        raise NotApplicable("nobody said how to tell it (--drain)")
    c.credits = False
    await c.send(settings({INITIAL_WINDOW_SIZE: 10}))
    await c.request("/size/5000")
    await c.until(lambda: len(c.streams[1].body) == 10)
    c.target.drain()
    await c.until(lambda: c.goaways)
    demand(c.goaways and c.goaways[0][1] == NO_ERROR and c.goaways[-1][0] >= 1, c.describe())
    await c.send(window_update(1, 10_000))
    found = await c.response(1)
    demand(found.ended and len(found.body) == 5000, c.describe())
    await c.until(lambda: c.closed, 5)
    c.lived = not c.closed
    return closed | Lived()
