"""What has to work: requests and responses of all shapes, and flow control to the byte."""

import asyncio
import hashlib
import json

from connection import Failed, NotApplicable
from frames import *
from origin import pattern
from table import *


def seen_of(found):
    demand(found.status == 200, found.describe())
    return json.loads(found.body)


# ---- methods, statuses, fields

for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
    @case(f"exchange.{method.lower()}", "9113 §8.3.1", f"{method} without a body", "the origin sees that method and that path")
    async def _(c, method=method):
        seen = seen_of(await c.ask("/seen?a=b%20c", method))
        demand(seen["method"] == method and seen["target"] == c.path("/seen?a=b%20c"), repr(seen))


@case("exchange.head", "9110 §9.3.2", "HEAD of 1,000 bytes", "200 with Content-Length 1000 and END_STREAM, no DATA with content")
async def _(c):
    found = await c.ask("/size/1000", "HEAD")
    demand(not found.body and found.field(b"content-length") == b"1000", found.describe())


@case("exchange.head_chunked", "9110 §9.3.2", "HEAD of a body in chunks", "200 and END_STREAM")
async def _(c):
    demand(not (await c.ask("/chunked/1000", "HEAD")).body, "content")


for status in (204, 304):
    @case(f"exchange.status_{status}", "9110 §6.4.1", f"a response {status}", f"{status} without content")
    async def _(c, status=status):
        demand(not (await c.ask(f"/status/{status}", status=status)).body, "content")

for status in (201, 302, 404, 418, 500, 503):
    @case(f"exchange.status_{status}", "9113 §8.3.2", f"a response {status}", f"{status} with its content")
    async def _(c, status=status):
        found = await c.ask(f"/status/{status}", status=status)
        demand(found.body == b"status", found.describe())


@case("exchange.cookies_joined", "9113 §8.2.3", "three cookie fields", "the origin sees one Cookie, joined by `; `")
async def _(c):
    seen = seen_of(await c.ask("/seen", more=[("cookie", "a=1"), ("x-between", "y"), ("cookie", "b=2; c=3"), ("cookie", "d=4")]))
    cookies = [value for name, value in seen["fields"] if name == "cookie"]
    demand(cookies == ["a=1; b=2; c=3; d=4"], repr(cookies))


@case("exchange.set_cookie_apart", "9110 §5.3", "a response with two Set-Cookie fields", "two set-cookie fields")
async def _(c):
    found = await c.ask("/cookies")
    values = [value for name, value in found.fields if name == b"set-cookie"]
    demand(values == [b"a=1; Path=/", b"b=2; Path=/"], repr(values))


@case("exchange.connection_fields_removed", "9113 §8.2.2", "an HTTP/1.1 response with Connection, Keep-Alive, Upgrade, X-Hop",
      "none of them")
async def _(c):
    found = await c.ask("/connection")
    names = {name for name, _ in found.fields}
    wrong = names & {b"connection", b"keep-alive", b"upgrade", b"proxy-connection", b"transfer-encoding", b"x-hop"}
    demand(not wrong and found.body == b"hop", repr(found.fields))


@case("exchange.fields_arrive", "9110 §5.3", "fields that repeat, and a long one", "the origin sees them, in order")
async def _(c):
    seen = seen_of(await c.ask("/seen", more=[("x-list", "1"), ("x-list", "2"), ("x-long", "v" * 5000)]))
    values = [value for name, value in seen["fields"] if name == "x-list"]
    demand(", ".join(values) == "1, 2", repr(values))
    demand(dict(seen["fields"]).get("x-long") == "v" * 5000, "the long one is another")


@case("exchange.host_is_authority", "9113 §8.3.1", "a request", "the origin sees Host as `:authority` was, once", law="gateway")
async def _(c):
    seen = seen_of(await c.ask("/seen"))
    hosts = [value for name, value in seen["fields"] if name == "host"]
    demand(hosts == [c.target.authority], repr(hosts))


# ---- bodies


@case("body.by_length", "9113 §8.1.1", "50,000 bytes with content-length", "the origin sees that length and those bytes")
async def _(c):
    body = pattern(50_000)
    seen = seen_of(await c.ask("/seen", "POST", body=body, more=[("content-length", str(len(body)))]))
    demand(seen["body_bytes"] == len(body) and seen["digest"] == hashlib.sha256(body).hexdigest(), repr(seen))
    demand(dict(seen["fields"]).get("content-length") == str(len(body)), repr(seen["fields"]))


@case("body.without_length", "9113 §8.1", "50,000 bytes without content-length", "the origin sees those bytes")
async def _(c):
    body = pattern(50_000)
    seen = seen_of(await c.ask("/seen", "POST", body=body))
    demand(seen["body_bytes"] == len(body) and seen["digest"] == hashlib.sha256(body).hexdigest(), repr(seen))


@case("body.empty", "9113 §8.1", "POST whose body is one empty DATA with END_STREAM", "the origin sees no bytes")
async def _(c):
    demand(seen_of(await c.ask("/seen", "POST", body=b""))["body_bytes"] == 0, "bytes")


@case("body.small_pieces", "9113 §6.1", "3,000 bytes in DATA of 3 bytes, empty ones between them", "the body echoed")
async def _(c):
    body = pattern(3000)
    await c.send(headers(1, c.fields("/echo", "POST"), end_stream=False))
    for at in range(0, len(body), 3):
        await c.send(data(1, body[at : at + 3]), data(1) if at % 300 == 0 else b"")
    await c.send(data(1, b"", True))
    found = await c.response(1)
    demand(found.body == body, found.describe())


@case("body.up_1_mib", "9113 §6.9", "1 MiB up", "the origin sees those bytes", seconds=20)
async def _(c):
    body = pattern(1 << 20)
    seen = seen_of(await c.ask("/seen", "POST", body=body))
    demand(seen["digest"] == hashlib.sha256(body).hexdigest(), repr(seen))


@case("body.both_ways_1_mib", "9113 §6.9", "1 MiB up, and down again at the same time", "the body echoed", seconds=20)
async def _(c):
    body = pattern(1 << 20)
    found = await c.ask("/echo", "POST", body=body)
    demand(found.body == body, found.describe())


@case("body.down_3_mib", "9113 §6.9", "3 MiB down", "those bytes", seconds=20)
async def _(c):
    demand((await c.ask("/size/3145728")).body == pattern(3 << 20), "other bytes")


@case("body.down_chunked", "9113 §8.2.2", "100,000 bytes down that came in chunks", "those bytes")
async def _(c):
    demand((await c.ask("/chunked/100000")).body == pattern(100_000), "other bytes")


@case("body.cut", "9113 §8.1, 9112 §8", "a response that the origin ends half way", "RST_STREAM, no END_STREAM")
async def _(c):
    found = await c.response(await c.request("/cut/10000"))
    demand(found.reset is not None and not found.ended, found.describe())
    await c.ask()


@case("body.cut_chunked", "9113 §8.1, 9112 §8", "a response in chunks that the origin ends without the last one",
      "RST_STREAM, no END_STREAM")
async def _(c):
    found = await c.response(await c.request("/cut-chunked/10000"))
    demand(found.reset is not None and not found.ended, found.describe())
    await c.ask()


# ---- trailers, informational and early responses


@case("trailers.of_a_response", "9113 §8.1, 9110 §6.5", "`te: trailers`; a response with trailers",
      "HEADERS with END_STREAM that hold them", law="gateway")
async def _(c):
    found = await c.ask("/trailers", more=[("te", "trailers")])
    demand(found.body == b"with trailers" and sorted(found.trailers or []) == [(b"x-end", b"yes"), (b"x-sum", b"12")], repr(found.trailers))


@case("trailers.unasked", "9110 §6.5.1", "a response with trailers for a client that has not said that it takes them",
      "the body, and no trailers", law="gateway")
async def _(c):
    found = await c.ask("/trailers")
    demand(found.body == b"with trailers" and not found.trailers, repr(found.trailers))


@case("trailers.of_a_request", "9113 §8.1, 9110 §6.5.1", "a request with trailers", "the origin sees the body, and no trailers",
      law="gateway")
async def _(c):
    await c.send(headers(1, c.fields("/seen", "POST"), end_stream=False), data(1, b"body"), headers(1, [("x-trailer", "1")]))
    seen = seen_of(await c.response(1))
    demand(seen["body_bytes"] == 4 and seen["trailers"] == [], repr(seen))


@case("trailers.without_body", "9113 §8.1", "a request with trailers and no DATA", "200")
async def _(c):
    await c.send(headers(1, c.fields("/seen", "POST"), end_stream=False), headers(1, [("x-trailer", "1")]))
    demand(seen_of(await c.response(1))["body_bytes"] == 0, "bytes")


@case("trailers.empty", "9113 §8.1", "an empty trailer section", "200")
async def _(c):
    await c.send(headers(1, c.fields("/seen", "POST"), end_stream=False), data(1, b"body"), headers(1, b""))
    demand(seen_of(await c.response(1))["body_bytes"] == 4, "bytes")


@case("informational.early_hints", "9113 §8.1, 9110 §15.2", "103 from the origin, then 200", "both, in that order", law="gateway")
async def _(c):
    found = await c.ask("/early-hints")
    demand([status for status, _ in found.informational] == [103] and found.body == b"hinted", repr(found.informational))


@case("informational.continue", "9113 §8.1, 9110 §10.1.1", "`expect: 100-continue` and no body", "100; then the body and 200")
async def _(c):
    await c.send(headers(1, c.fields("/continue", "POST", more=[("expect", "100-continue")]), end_stream=False))
    await c.until(lambda: c.streams[1].informational or c.streams[1].over)
    demand([status for status, _ in c.streams[1].informational] == [100], c.describe())
    await c.send(data(1, b"expected", True))
    demand(seen_of(await c.response(1))["body_bytes"] == 8, "bytes")


@case("early.refusal", "9113 §8.1", "413 before the body has come", "413 whole, the connection lives")
async def _(c):
    await c.send(headers(1, c.fields("/enough", "POST"), end_stream=False))
    await c.until(lambda: c.streams[1].over)
    demand(c.streams[1].status == 413 and c.streams[1].body == b"enough", c.describe())
    # RFC 9113 §8.1: RST_STREAM with NO_ERROR may follow the whole response.
    demand(c.streams[1].reset in (None, NO_ERROR, CANCEL), c.describe())
    if c.streams[1].reset is None:
        await c.send(data(1, b"late", True))
    demand(await c.quiet(), c.describe())
    await c.ask()


@case("early.refusal_during_upload", "9113 §8.1", "413 while 1 MiB is on its way", "413 whole; then the stream may be reset with NO_ERROR")
async def _(c):
    await c.send(headers(1, c.fields("/enough", "POST", more=[("content-length", "1048576")]), end_stream=False))
    await c.upload(1, bytes(1 << 20))
    found = await c.response(1)
    demand(found.status == 413 and found.body == b"enough" and found.reset in (None, NO_ERROR, CANCEL), found.describe())
    await c.ask()


@case("early.answer", "9113 §8.1", "200 before the body has come", "200 whole, then the body is taken or the stream reset")
async def _(c):
    await c.send(headers(1, c.fields("/enough-kept", "POST"), end_stream=False))
    await c.until(lambda: c.streams[1].over)
    demand(c.streams[1].status == 200 and c.streams[1].body == b"enough", c.describe())
    if c.streams[1].reset is None:
        await c.upload(1, bytes(100_000))
    demand(await c.quiet(), c.describe())
    await c.ask()


# ---- many streams


@case("streams.hundred", "9113 §5.1.2", "100 requests at once", "each gets its own answer", seconds=15)
async def _(c):
    limit = min(100, c.settings.get(MAX_CONCURRENT_STREAMS, 100))
    streams = [2 * at + 1 for at in range(limit)]
    await c.send(*(headers(stream, c.fields(f"/size/{stream * 100}")) for stream in streams))
    for stream in streams:
        found = await c.response(stream)
        demand(found.status == 200 and found.body == pattern(stream * 100), f"{stream}: {found.describe()}")


@case("streams.bodies_interleaved", "9113 §5", "20 bodies whose frames alternate", "each echoed as it was", seconds=15)
async def _(c):
    streams = range(1, 41, 2)
    await c.send(*(headers(stream, c.fields("/echo", "POST"), end_stream=False) for stream in streams))
    for at in range(10):
        await c.send(*(data(stream, b"%d:%d;" % (stream, at), at == 9) for stream in streams))
    for stream in streams:
        found = await c.response(stream)
        demand(found.body == b"".join(b"%d:%d;" % (stream, at) for at in range(10)), f"{stream}: {found.describe()}")


@case("streams.one_after_another", "9113 §5.1.1", "150 requests, one after another", "each answered", seconds=20)
async def _(c):
    for _ in range(150):
        await c.ask()


@case("streams.stalled_one_blocks_none", "9113 §5.2", "a stream without a window beside twenty others", "the others end")
async def _(c):
    c.credits = False
    await c.send(settings({INITIAL_WINDOW_SIZE: 0}), window_update(0, 1 << 20))
    await c.request("/size/100000")
    for _ in range(20):
        stream = await c.request("/size/1000")
        await c.send(window_update(stream, 1000))
        demand((await c.response(stream)).body == pattern(1000), c.describe())
    demand(not c.streams[1].body, c.describe())


@case("streams.unread_upload_blocks_none", "9113 §5.2.2", "a body that the origin does not read beside twenty requests",
      "the others are answered", law="gateway")
async def _(c):
    await c.send(headers(1, c.fields("/hold", "POST"), end_stream=False))
    await c.until(lambda: False, 0.05)
    room = min(c.send_windows[1], c.send_window) // 2
    await c.upload(1, bytes(room), end_stream=False)
    for _ in range(20):
        await c.ask()


# ---- flow control to the byte


async def just(c, stream, count):
    """There are just so many bytes, and no more come."""
    await c.until(lambda: len(c.streams[stream].body) >= count)
    demand(await c.quiet(), c.describe())
    demand(len(c.streams[stream].body) == count, f"{len(c.streams[stream].body)} bytes where {count} may come; {c.describe()}")


@case("flow.zero_then_one", "9113 §6.9.1", "windows of 0, then increments of 1, 1, 10", "HEADERS, then 1, 2, 12 bytes",
      settings={ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 0})
async def _(c):
    c.credits = False
    await c.request("/size/1000")
    await c.until(lambda: c.streams[1].status)
    demand(c.streams[1].status == 200, c.describe())
    count = 0
    for increment in (0, 1, 1, 10):
        if increment:
            await c.send(window_update(1, increment))
        count += increment
        await just(c, 1, count)


@case("flow.connection_window", "9113 §6.9.1", "three responses of 60,000 bytes and no increment of the connection",
      "65,535 bytes in all, then 10 more", settings={ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 1 << 20})
async def _(c):
    c.credits = False
    for _ in range(3):
        await c.request("/size/60000")

    def count():
        return sum(len(stream.body) for stream in c.streams.values())

    for more in (WINDOW_DEFAULT, 10):
        if more == 10:
            await c.send(window_update(0, 10))
        await c.until(lambda: c.window == 0)
        demand(await c.quiet() and c.window == 0, f"{count()} bytes, a window of {c.window}")
    demand(count() == WINDOW_DEFAULT + 10, f"{count()} bytes")
    await c.send(window_update(0, 1 << 20))
    for stream in (1, 3, 5):
        demand((await c.response(stream)).body == pattern(60_000), c.describe())


@case("flow.settings_lift", "9113 §6.9.2", "a stream stopped at 100, then SETTINGS_INITIAL_WINDOW_SIZE of 250", "100, then 250 bytes",
      settings={ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 100})
async def _(c):
    c.credits = False
    await c.request("/size/1000")
    await just(c, 1, 100)
    await c.send(settings({INITIAL_WINDOW_SIZE: 250}))
    await just(c, 1, 250)


@case("flow.negative_window", "9113 §6.9.2", "300 bytes sent, then SETTINGS_INITIAL_WINDOW_SIZE of 0; increments of 100, 200, 50",
      "nothing until the window is above 0 again, then 50 bytes", settings={ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 300})
async def _(c):
    c.credits = False
    await c.request("/size/1000")
    await just(c, 1, 300)
    await c.send(settings({INITIAL_WINDOW_SIZE: 0}))
    await just(c, 1, 300)
    for increment, count in ((100, 300), (200, 300), (50, 350)):
        await c.send(window_update(1, increment))
        await just(c, 1, count)


@case("flow.settings_lower_new_streams", "9113 §6.9.2", "SETTINGS_INITIAL_WINDOW_SIZE of 7 between two requests",
      "the second gets 7 bytes", settings={ENABLE_PUSH: 0})
async def _(c):
    await c.ask("/size/1000")
    c.credits = False
    await c.send(settings({INITIAL_WINDOW_SIZE: 7}))
    await c.request("/size/1000")
    await just(c, 3, 7)


@case("flow.tiny_windows_down", "9113 §6.9", "10,000 bytes through a window of 100", "those bytes", seconds=15,
      settings={ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 100})
async def _(c):
    demand((await c.ask("/size/10000", seconds=15)).body == pattern(10_000), "other bytes")


@case("flow.window_exact_end", "9113 §6.9.1", "1,000 bytes through a window of just 1,000", "those bytes and END_STREAM",
      settings={ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 1000})
async def _(c):
    c.credits = False
    demand((await c.ask("/size/1000")).body == pattern(1000), "other bytes")


@case("flow.empty_body_needs_no_window", "9113 §6.9.1", "a response without content at windows of 0", "it ends", law="gateway",
      settings={ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 0})
async def _(c):
    c.credits = False
    await c.ask("/size/0")
    await c.ask("/status/204", status=204)


@case("flow.frame_size", "9113 §4.2", "SETTINGS_MAX_FRAME_SIZE of 2^15, then of 2^14 again", "no frame is larger")
async def _(c):
    for size in (1 << 15, FRAME_DEFAULT):
        count = c.acknowledged
        await c.send(settings({MAX_FRAME_SIZE: size, INITIAL_WINDOW_SIZE: 1 << 20}), window_update(0, 1 << 20))
        demand(await c.until(lambda: c.acknowledged > count), c.describe())
        demand((await c.ask("/size/300000")).body == pattern(300_000), "other bytes")


@case("flow.large_head", "9113 §4.2, §6.10", "a response head of 24,000 bytes", "HEADERS and CONTINUATION, none above 2^14")
async def _(c):
    found = await c.ask("/fields/40/600")
    values = [value for name, value in found.fields if name.startswith(b"x-field-")]
    demand(sorted(int(value[:6]) for value in values) == list(range(40)), repr(found.fields)[:300])


@case("flow.credit_after_reset", "9113 §5.1, §6.9.1", "ten streams reset with 20,000 bytes of body on the way",
      "the bytes come back to the window of the connection: an 11th upload ends", seconds=10)
async def _(c):
    for at in range(10):
        stream = 2 * at + 1
        await c.send(headers(stream, c.fields("/hold", "POST"), end_stream=False))
        await c.until(lambda: c.send_window >= 20_000)
        demand(c.send_window >= 20_000, f"the window of the connection stays at {c.send_window} after {at} streams")
        await c.send(data(stream, bytes(10_000)), data(stream, bytes(10_000)), rst_stream(stream))
    seen = seen_of(await c.ask("/seen", "POST", body=bytes(200_000)))
    demand(seen["body_bytes"] == 200_000, repr(seen))


@case("flow.upload_waits_for_origin", "9113 §5.2.2, ours", "a body to an origin that does not read",
      "the server stops giving credit within 8 MiB", law="gateway", seconds=10)
async def _(c):
    await c.send(headers(1, c.fields("/hold", "POST"), end_stream=False))
    sent = 0
    while sent < 8 << 20:
        await c.until(lambda: min(c.send_window, c.send_windows[1]) > 0, 0.4)
        room = min(c.send_window, c.send_windows[1], FRAME_DEFAULT)
        if room <= 0:
            return
        sent += room
        await c.send(data(1, bytes(room)))
        demand(not c.streams[1].over and not c.closed, c.describe())
    raise Failed("8 MiB were taken in for an origin that reads nothing")


@case("flow.download_waits_for_client", "9113 §5.2.2, ours", "100 MB for a client without a window",
      "the origin sends no more than 8 MiB", law="gateway", settings={ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: 0})
async def _(c):
    c.credits = False
    await c.request("/size/30000000")
    await c.until(lambda: c.streams[1].status)
    record = c.target.origin.of(c.token)[0]
    before = -1
    while before != record.sent:
        before = record.sent
        demand(await c.quiet(), c.describe())
        await asyncio.sleep(0.2)
    demand(record.sent < 8 << 20, f"{record.sent} bytes were taken from the origin")


# ---- priorities


@case("priority.field", "9218 §5", "the priority field", "the origin sees it")
async def _(c):
    seen = seen_of(await c.ask("/seen", more=[("priority", "u=1, i")]))
    demand(dict(seen["fields"]).get("priority") == "u=1, i", repr(seen["fields"]))
