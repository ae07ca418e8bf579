"""RFC 9113 §3 to §7: the preface, frames, states of streams, and each type of frame."""

import asyncio
import ssl

from connection import Failed, NotApplicable
from frames import *
from table import *


def get(c, stream=1, path="/ok", **more):
    return headers(stream, c.fields(path, **more))


def post(c, stream=1, path="/hold", **more):
    """The head of a request whose body is still to come."""
    return headers(stream, c.fields(path, "POST", **more), end_stream=False)


def sends(make):
    """A case that writes the frames that `make` gives, at once."""

    async def run(c):
        await c.send(*make(c))

    return run


# ---- §3.4 the preface


@case("preface.whole", "9113 §3.4", "the preface with empty SETTINGS", "SETTINGS first, ours acknowledged, 200", settings={})
async def _(c):
    await c.ask()


@case("preface.not_waited_for", "9113 §3.4", "preface, SETTINGS and a request in one write", "200", handshake=False)
async def _(c):
    await c.send(PREFACE, settings({ENABLE_PUSH: 0}), get(c))
    found = await c.response(1)
    demand(found.status == 200, found.describe())


@case("preface.byte_by_byte", "9113 §3.4", "preface, SETTINGS and a request, each byte in a write of its own", "200",
      handshake=False)
async def _(c):
    for byte in PREFACE + settings({ENABLE_PUSH: 0}) + get(c):
        await c.send(bytes([byte]))
        await asyncio.sleep(0)
    found = await c.response(1)
    demand(found.status == 200, found.describe())


@case("preface.settings_with_values", "9113 §3.4", "SETTINGS with all values that a client may set", "200",
      settings={HEADER_TABLE_SIZE: 100, ENABLE_PUSH: 0, MAX_CONCURRENT_STREAMS: 7, INITIAL_WINDOW_SIZE: 1 << 20,
                MAX_FRAME_SIZE: 1 << 15, MAX_HEADER_LIST_SIZE: 1 << 16})
async def _(c):
    await c.ask()


row("preface.wrong", "9113 §3.4", "something else instead of the preface", connection_error(PROTOCOL_ERROR) | closed,
    lambda c: c.send(b"INVALID CONNECTION PREFACE\r\n\r\n\r\n\r\n"), handshake=False)
row("preface.wrong_last_byte", "9113 §3.4", "a preface whose last byte is another",
    connection_error(PROTOCOL_ERROR) | closed, lambda c: c.send(PREFACE[:-1] + b"x" + settings()), handshake=False)
row("preface.wrong_in_the_middle", "9113 §3.4", "`PRI * HTTP/2.0` with `SN` for `SM`",
    connection_error(PROTOCOL_ERROR) | closed, lambda c: c.send(PREFACE.replace(b"SM", b"SN") + settings()), handshake=False)
row("preface.http1", "9113 §3.4", "an HTTP/1.1 request where h2 was negotiated",
    connection_error(PROTOCOL_ERROR) | closed,
    lambda c: c.send(b"GET /smuggled?case=%s HTTP/1.1\r\nHost: a.example\r\n\r\n" % c.token.encode()),
    handshake=False, transport="tls", origin="nothing")
row("preface.first_ping", "9113 §3.4", "PING as the first frame", connection_error(PROTOCOL_ERROR),
    lambda c: c.send(PREFACE, ping()), handshake=False)
row("preface.first_headers", "9113 §3.4", "HEADERS as the first frame", connection_error(PROTOCOL_ERROR),
    lambda c: c.send(PREFACE, get(c)), handshake=False, origin="nothing")
row("preface.first_settings_ack", "9113 §3.4", "an acknowledgement of SETTINGS as the first frame",
    connection_error(PROTOCOL_ERROR), lambda c: c.send(PREFACE, settings_ack()), handshake=False)


@case("preface.cut", "9113 §3.4", "half a preface and the end of the connection", "closed", handshake=False, transport="clear")
async def _(c):
    await c.send(PREFACE[:-4])
    c.writer.write_eof()
    return closed


# ---- §3.2, §9.2 TLS


@case("tls.h2_chosen", "9113 §3.2", "ALPN h2 and http/1.1", "h2 is chosen", transport="tls", handshake=False)
async def _(c):
    other = await c.another(handshake=False)
    demand(other.alpn == "h2", f"ALPN {other.alpn}")


@case("tls.http1_chosen", "9113 §3.2", "ALPN http/1.1 alone, or none, and an HTTP/1.1 request", "an HTTP/1.1 response",
      transport="tls", handshake=False)
async def _(c):
    for alpn in (("http/1.1",), ()):
        reader, writer = await asyncio.open_connection(
            c.target.host, c.target.port, ssl=c.target.context(alpn), server_hostname=c.target.server_name)
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        demand(chosen in ("http/1.1", None), f"ALPN {chosen}")
        writer.write(f"GET {c.path('/ok')} HTTP/1.1\r\nHost: {c.target.authority}\r\nConnection: close\r\n\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), PATIENCE)
        writer.transport.abort()
        demand(line.startswith(b"HTTP/1.1 200"), f"{line!r} with ALPN {alpn}")


@case("tls.too_old", "9113 §9.2", "a handshake of TLS 1.1", "it fails, or h2 is not spoken", transport="tls", handshake=False)
async def _(c):
    context = c.target.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    try:
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    except ValueError:
        raise NotApplicable("this Python has no TLS 1.1")
    await expect_no_h2(c, context)


@case("tls.prohibited_cipher", "9113 §9.2.2", "TLS 1.2 with a cipher suite that is prohibited", "no HTTP/2 with it",
      transport="tls", handshake=False, law="gateway")
async def _(c):
    context = c.target.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:AES256-SHA:AES128-GCM-SHA256:ECDHE-RSA-AES128-SHA:ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
    await expect_no_h2(c, context)


async def expect_no_h2(c, context):
    from connection import Connection
    other = Connection(c.target, c.token)
    c.others.append(other)
    try:
        await other.connect(context)
    except (OSError, ssl.SSLError):
        return
    if other.alpn != "h2":
        return
    try:
        await other.handshake()
        found = await other.response(await other.request())
        demand(found.status is None, "it was served: " + found.describe())
    except Failed:
        demand(other.closed or other.goaways, other.describe())


# ---- §4.1, §4.2 frames

row("frame.unknown_type", "9113 §4.1", "a frame of an unknown type before a request", ignored,
    sends(lambda c: [raw(0xBB, 0xFF, 0, b"unknown")]))
row("frame.undefined_flags", "9113 §4.1", "PING with all flags set but ACK", ignored,
    sends(lambda c: [raw(PING, 0xFE, 0, b"flagged!")]))
row("frame.reserved_bit", "9113 §4.1", "PING with the reserved bit set", ignored,
    sends(lambda c: [raw(PING, 0, 0, b"reserved", reserved=True)]))
row("frame.reserved_bit_headers", "9113 §4.1", "HEADERS with the reserved bit set", answered(),
    sends(lambda c: [raw(HEADERS, END_STREAM | END_HEADERS, 1, block(c.fields()), reserved=True)]), origin="one")
row("frame.undefined_flags_headers", "9113 §4.1", "HEADERS with undefined flags set", answered(),
    sends(lambda c: [raw(HEADERS, END_STREAM | END_HEADERS | 0xC2, 1, block(c.fields()))]), origin="one")


@case("frame.byte_by_byte", "9113 §4.1", "a request with a body, each byte in a write of its own", "200, the body echoed")
async def _(c):
    pieces = headers(1, c.fields("/echo", "POST"), end_stream=False) + data(1, b"hello", pad=3) + data(1, b" you", True)
    for byte in pieces:
        await c.send(bytes([byte]))
        await asyncio.sleep(0)
    found = await c.response(1)
    demand(found.status == 200 and found.body == b"hello you", found.describe())


@case("size.data_largest", "9113 §4.2", "DATA of 2^14 bytes", "200, the body echoed")
async def _(c):
    await c.ask("/echo", "POST", body=bytes(FRAME_DEFAULT))
    demand(len(c.streams[1].body) == FRAME_DEFAULT, c.streams[1].describe())


@case("size.headers_largest", "9113 §4.2", "HEADERS of 2^14 bytes", "200")
async def _(c):
    fields = block(c.fields()) + b"".join(literal(b"x-filler-%d" % at, b"f" * 4000) for at in range(4))
    # The overhead of a value of more than 127 and less than 16,511 bytes is always the same.
    fields += literal(b"x-last", b"f" * (FRAME_DEFAULT - len(fields) - len(literal(b"x-last", b"f" * 300)) + 300))
    demand(len(fields) == FRAME_DEFAULT, f"a block of {len(fields)} bytes")
    await c.send(headers(1, fields))
    return answered()


def server_frame_size(c):
    size = c.settings.get(MAX_FRAME_SIZE, FRAME_DEFAULT)
    if size >= 1 << 20:
        raise NotApplicable(f"SETTINGS_MAX_FRAME_SIZE is {size}")
    return size + 1


row("size.data_too_large", "9113 §4.2", "DATA larger than SETTINGS_MAX_FRAME_SIZE",
    stream_error(FRAME_SIZE_ERROR) | connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [post(c), data(1, bytes(server_frame_size(c)))]))
row("size.headers_too_large", "9113 §4.2", "HEADERS larger than SETTINGS_MAX_FRAME_SIZE", connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [headers(1, block(c.fields()) + literal(b"x", bytes(server_frame_size(c)).replace(b"\0", b"x")))]),
    origin="nothing")
row("size.continuation_too_large", "9113 §4.2", "CONTINUATION larger than SETTINGS_MAX_FRAME_SIZE",
    connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [headers(1, block(c.fields()), end_headers=False),
                     continuation(1, literal(b"x", b"x" * server_frame_size(c)))]), origin="nothing")
row("size.settings_too_large", "9113 §4.2", "SETTINGS larger than SETTINGS_MAX_FRAME_SIZE",
    connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [settings_pairs(*[(0xF0F0, 1)] * (server_frame_size(c) // 6 + 1))]))
row("size.unknown_too_large", "9113 §4.2", "a frame of an unknown type larger than SETTINGS_MAX_FRAME_SIZE",
    connection_error(FRAME_SIZE_ERROR), sends(lambda c: [raw(0xBB, 0, 0, bytes(server_frame_size(c)))]))
row("size.announced_only", "9113 §4.2", "the header of a frame of 2^24-1 bytes, and nothing behind it",
    connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: server_frame_size(c) and [raw(SETTINGS, 0, 0, length=(1 << 24) - 1)]), law="gateway")

# ---- §4.3 field blocks between other frames

for name, frame in [
    ("priority", lambda c: priority(1)),
    ("data", lambda c: data(1, b"x")),
    ("settings", lambda c: settings()),
    ("ping", lambda c: ping()),
    ("window_update", lambda c: window_update(0, 1)),
    ("rst_stream", lambda c: rst_stream(1)),
    ("goaway", lambda c: goaway()),
    ("unknown", lambda c: raw(0xBB, 0, 1, b"x")),
    ("priority_update", lambda c: priority_update(1)),
    ("headers_same_stream", lambda c: get(c, 1)),
    ("headers_other_stream", lambda c: get(c, 3)),
]:
    row(f"block.broken_by_{name}", "9113 §4.3, §6.10", f"HEADERS without END_HEADERS, then {name}, then CONTINUATION",
        connection_error(PROTOCOL_ERROR),
        sends(lambda c, frame=frame: [headers(1, block(c.fields())[:4], end_headers=False), frame(c),
                                      continuation(1, block(c.fields())[4:])]), origin="nothing")

# ---- §5.1 states of streams

row("idle.data", "9113 §5.1", "DATA on an idle stream", connection_error(PROTOCOL_ERROR), sends(lambda c: [data(1, b"x", True)]))
row("idle.rst_stream", "9113 §5.1, §6.4", "RST_STREAM on an idle stream", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [rst_stream(1)]))
row("idle.window_update", "9113 §5.1", "WINDOW_UPDATE on an idle stream", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [window_update(1, 100)]))
row("idle.continuation", "9113 §5.1, §6.10", "CONTINUATION on an idle stream", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [continuation(1, block(c.fields()))]), origin="nothing")
row("idle.priority", "9113 §5.1", "PRIORITY on an idle stream, then a request on a lower one", answered(),
    sends(lambda c: [priority(7), get(c)]), origin="one")
row("half_closed.data", "9113 §5.1, §6.1", "DATA behind END_STREAM", stream_error(STREAM_CLOSED),
    sends(lambda c: [get(c, path="/hold"), data(1, b"x")]))
row("half_closed.data_end", "9113 §5.1, §6.1", "DATA with END_STREAM behind END_STREAM", stream_error(STREAM_CLOSED),
    sends(lambda c: [get(c, path="/hold"), data(1, b"x", True)]))
# RFC 9113 §5.1.1 would have PROTOCOL_ERROR for an identifier that is not new.
row("half_closed.headers", "9113 §5.1", "HEADERS behind END_STREAM",
    stream_error(STREAM_CLOSED) | ConnectionError_((PROTOCOL_ERROR,), narrow=False),
    sends(lambda c: [get(c, path="/hold"), headers(1, [("x-late", "1")])]))
row("half_closed.continuation", "9113 §5.1, §6.10", "CONTINUATION behind END_STREAM and END_HEADERS",
    connection_error(PROTOCOL_ERROR, STREAM_CLOSED), sends(lambda c: [get(c, path="/hold"), continuation(1, block(c.fields()))]))


@case("half_closed.permitted", "9113 §5.1", "WINDOW_UPDATE and PRIORITY behind END_STREAM, then RST_STREAM",
      "no error, the next request is answered")
async def _(c):
    await c.send(get(c, path="/hold"), window_update(1, 10), priority(1), rst_stream(1))
    return ignored


def closed_stream(*codes):
    # RFC 9113 §5.1 lets frames on closed streams be discarded or be errors; §6.1 names STREAM_CLOSED for DATA.
    return ignored | Reset((STREAM_CLOSED,)) | connection_error(STREAM_CLOSED, PROTOCOL_ERROR)


row("reset.data", "9113 §5.1", "DATA on a stream that the client has reset", closed_stream(),
    sends(lambda c: [post(c), rst_stream(1), data(1, b"x")]))
row("reset.headers", "9113 §5.1", "HEADERS on a stream that the client has reset", closed_stream(),
    sends(lambda c: [post(c), rst_stream(1), get(c)]))
row("reset.continuation", "9113 §6.10", "CONTINUATION on a stream that the client has reset",
    connection_error(PROTOCOL_ERROR, STREAM_CLOSED), sends(lambda c: [post(c), rst_stream(1), continuation(1, b"")]))
row("reset.window_update", "9113 §5.1", "WINDOW_UPDATE on a stream that the client has reset", closed_stream(),
    sends(lambda c: [post(c), rst_stream(1), window_update(1, 1)]))
row("reset.priority", "9113 §5.1", "PRIORITY on a stream that the client has reset", ignored,
    sends(lambda c: [post(c), rst_stream(1), priority(1)]))
row("reset.reset_again", "9113 §5.1", "RST_STREAM on a stream that the client has reset", closed_stream(),
    sends(lambda c: [post(c), rst_stream(1), rst_stream(1)]))


def over(make):
    async def run(c):
        await c.ask()
        await c.send(*make(c))
    return run


row("closed.data", "9113 §5.1, §6.1", "DATA on a stream that both sides have ended", closed_stream(),
    over(lambda c: [data(1, b"x")]))
row("closed.headers", "9113 §5.1, §5.1.1", "HEADERS on a stream that both sides have ended",
    closed_stream(), over(lambda c: [get(c)]))
row("closed.continuation", "9113 §6.10", "CONTINUATION on a stream that both sides have ended",
    connection_error(PROTOCOL_ERROR, STREAM_CLOSED), over(lambda c: [continuation(1, b"")]))
row("closed.window_update", "9113 §5.1", "WINDOW_UPDATE on a stream that both sides have ended", ignored,
    over(lambda c: [window_update(1, 1)]))
row("closed.rst_stream", "9113 §5.1", "RST_STREAM on a stream that both sides have ended", ignored,
    over(lambda c: [rst_stream(1)]))
row("closed.priority", "9113 §5.1", "PRIORITY on a stream that both sides have ended", ignored,
    over(lambda c: [priority(1)]))

# ---- §5.1.1 identifiers, §5.1.2 concurrency

row("id.even", "9113 §5.1.1", "HEADERS on stream 2", connection_error(PROTOCOL_ERROR), sends(lambda c: [get(c, 2)]),
    origin="nothing")
row("id.zero", "9113 §6.2", "HEADERS on stream 0", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [raw(HEADERS, END_STREAM | END_HEADERS, 0, block(c.fields()))]), origin="nothing")
row("id.lower", "9113 §5.1.1", "HEADERS on stream 5, then on stream 3", connection_error(PROTOCOL_ERROR, STREAM_CLOSED),
    sends(lambda c: [get(c, 5, "/hold"), get(c, 3, "/hold")]))
row("id.skipped_data", "9113 §5.1.1", "a request on stream 5, then DATA on stream 3, which it closed", closed_stream(),
    sends(lambda c: [get(c, 5, "/hold"), data(3, b"x")]), stream=3)


@case("id.skipped", "9113 §5.1.1", "requests on streams 1, 9 and 101", "each answered")
async def _(c):
    for stream in (1, 9, 101):
        await c.ask(stream=stream)


@case("id.last", "9113 §5.1.1", "a request on stream 2^31-1", "200")
async def _(c):
    await c.ask(stream=WINDOW_MAX)


@case("id.error_names_last", "9113 §6.8", "an answered request on stream 1, then an error of the connection",
      "GOAWAY whose last stream is 1, and a close")
async def _(c):
    await c.ask()
    await c.send(raw(PING, 0, 0, b"short"))
    await c.until(lambda: c.closed)
    demand(c.closed, c.describe())
    if c.goaways:
        demand(c.goaways[-1][0] == 1, c.describe())
    return connection_error(FRAME_SIZE_ERROR)


@case("concurrency.exceeded", "9113 §5.1.2", "more requests at once than SETTINGS_MAX_CONCURRENT_STREAMS",
      "REFUSED_STREAM or PROTOCOL_ERROR for what is too many, the connection lives")
async def _(c):
    limit = c.settings.get(MAX_CONCURRENT_STREAMS)
    if limit is None or limit > 1000:
        raise NotApplicable(f"SETTINGS_MAX_CONCURRENT_STREAMS is {limit}")
    if not c.target.origin:
        raise NotApplicable("there is no origin behind it")
    streams = [2 * at + 1 for at in range(limit + 1)]
    await c.send(*(get(c, stream, "/hold") for stream in streams))
    last = streams[-1]
    await c.until(lambda: c.streams[last].over)
    demand(c.streams[last].reset in (REFUSED_STREAM, PROTOCOL_ERROR) or
           (c.goaways and c.goaways[-1][1] in (PROTOCOL_ERROR, REFUSED_STREAM, ENHANCE_YOUR_CALM)), c.describe())
    demand(not any(c.streams[stream].over for stream in streams[:-1]) or c.goaways, "one that was not too many is over")
    if not c.goaways:
        await c.send(*(rst_stream(stream) for stream in streams[:-1]))
        await c.quiet()
        await c.ask()


# ---- §5.4 errors


@case("errors.closed_after_goaway", "9113 §5.4.1", "PING of 6 bytes", "GOAWAY and the end of the TCP connection")
async def _(c):
    await c.send(raw(PING, 0, 0, b"sixsix"))
    return connection_error(FRAME_SIZE_ERROR)


@case("errors.nothing_served_after", "9113 §5.4.1", "PING of 6 bytes and a request in one write",
      "the request does not reach the origin", origin="nothing")
async def _(c):
    await c.send(raw(PING, 0, 0, b"sixsix"), get(c))
    return connection_error(FRAME_SIZE_ERROR)


@case("errors.no_answer_to_reset", "9113 §5.4.2", "RST_STREAM on an open stream", "no RST_STREAM in answer")
async def _(c):
    await c.send(post(c), rst_stream(1, INTERNAL_ERROR))
    demand(await c.quiet(), c.describe())
    demand(c.streams[1].reset is None, c.describe())
    return ignored


@case("errors.stream_only", "9113 §5.4.2", "a stream error between two requests", "the requests around it are answered")
async def _(c):
    await c.send(get(c, 1), headers(3, [("x", "no pseudo-fields")]), get(c, 5))
    for stream in (1, 5):
        found = await c.response(stream)
        demand(found.status == 200, c.describe())


# ---- §5.5 extensions

row("extension.unknown_frame_on_open_stream", "9113 §5.5", "a frame of an unknown type on an open stream", answered(),
    sends(lambda c: [post(c, path="/ok"), raw(0xBB, 0xFF, 1, b"x"), data(1, b"", True)]))
row("extension.unknown_frame_on_idle_stream", "9113 §5.5", "a frame of an unknown type on an idle stream", answered(),
    sends(lambda c: [raw(0xBB, 0, 3, b"x"), get(c)]))
row("extension.unknown_frame_empty", "9113 §5.5", "an empty frame of type 255", ignored, sends(lambda c: [raw(0xFF, 0, 0)]))
row("extension.unknown_setting", "9113 §5.5, §6.5.2", "settings with unknown identifiers", ignored,
    sends(lambda c: [settings_pairs((0x0, 1), (0x7, 2), (0xFFFF, 0xFFFFFFFF))]))
row("extension.altsvc", "7838 §4", "ALTSVC from a client", ignored, sends(lambda c: [raw(0xA, 0, 0, b"\0\0h2=\":1\"")]))
row("extension.origin", "8336 §2", "ORIGIN from a client", ignored, sends(lambda c: [raw(0xC, 0, 0, b"\0\x01a")]))

# ---- §6.1 DATA

row("data.stream_0", "9113 §6.1", "DATA on stream 0", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [raw(DATA, 0, 0, b"x")]))
row("data.pad_is_all", "9113 §6.1", "DATA whose Pad Length is the length of the payload", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [post(c), raw(DATA, PADDED, 1, b"\x05xxxx")]))
row("data.pad_too_long", "9113 §6.1", "DATA whose Pad Length is more than the payload", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [post(c), raw(DATA, PADDED | END_STREAM, 1, b"\xffxxxx")]))
row("data.pad_missing", "9113 §6.1, §4.2", "DATA with PADDED and no payload", connection_error(FRAME_SIZE_ERROR, PROTOCOL_ERROR),
    sends(lambda c: [post(c), raw(DATA, PADDED, 1)]))
row("data.pad_not_zero", "9113 §6.1", "padding that is not zero", answered() | connection_error(PROTOCOL_ERROR),
    sends(lambda c: [post(c, path="/ok"), raw(DATA, PADDED | END_STREAM, 1, b"\x03bodyxyz")]))


@case("data.padded", "9113 §6.1", "a body in DATA frames with 0 to 255 bytes of padding", "200, the body echoed without it")
async def _(c):
    await c.send(headers(1, c.fields("/echo", "POST"), end_stream=False))
    for pad in (0, 1, 17, 254, 255):
        await c.upload(1, b"%d;" % pad, end_stream=False, pad=pad)
    await c.send(data(1, b"", True, pad=9))
    found = await c.response(1)
    demand(found.status == 200 and found.body == b"0;1;17;254;255;", found.describe() + repr(bytes(found.body)))


@case("data.padding_is_credited", "9113 §6.1, §6.9.1", "100 KiB of padding around 400 bytes", "200: padding counts, and comes back")
async def _(c):
    await c.send(headers(1, c.fields("/echo", "POST"), end_stream=False))
    for _ in range(400):
        await c.upload(1, b"x", end_stream=False, pad=255)
    await c.send(data(1, b"", True))
    found = await c.response(1)
    demand(found.status == 200 and found.body == b"x" * 400, found.describe())


# ---- §6.2 HEADERS

row("headers.pad_too_long", "9113 §6.2", "HEADERS whose Pad Length is more than the payload", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [raw(HEADERS, PADDED | END_STREAM | END_HEADERS, 1, b"\xff" + block(c.fields())[:100])]), origin="nothing")
row("headers.pad_missing", "9113 §6.2, §4.2", "HEADERS with PADDED and no payload",
    connection_error(FRAME_SIZE_ERROR, PROTOCOL_ERROR), sends(lambda c: [raw(HEADERS, PADDED | END_HEADERS, 1)]))
row("headers.priority_cut", "9113 §6.2, §4.2", "HEADERS with PRIORITY and 4 bytes of payload",
    connection_error(FRAME_SIZE_ERROR, PROTOCOL_ERROR),
    sends(lambda c: [raw(HEADERS, WITH_PRIORITY | END_HEADERS | END_STREAM, 1, b"\0\0\0\0")]))
row("headers.pad_over_priority", "9113 §6.2", "HEADERS whose padding leaves no room for the priority",
    connection_error(FRAME_SIZE_ERROR, PROTOCOL_ERROR),
    sends(lambda c: [raw(HEADERS, WITH_PRIORITY | PADDED | END_HEADERS | END_STREAM, 1, b"\x03\0\0\0\0\0\0")]))
row("headers.padded", "9113 §6.2", "HEADERS with 200 bytes of padding", answered(),
    sends(lambda c: [headers(1, c.fields(), pad=200)]), origin="one")
row("headers.priority", "9113 §6.2", "HEADERS with a priority", answered(),
    sends(lambda c: [headers(1, c.fields(), priority=(0, 255, True))]), origin="one")
row("headers.padded_priority", "9113 §6.2", "HEADERS with padding and a priority on a stream that does not exist", answered(),
    sends(lambda c: [headers(1, c.fields(), pad=1, priority=(99, 0, False))]), origin="one")

# ---- §6.3 PRIORITY

row("priority.stream_0", "9113 §6.3", "PRIORITY on stream 0", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [raw(PRIORITY, 0, 0, bytes(5))]))
row("priority.length_4", "9113 §6.3", "PRIORITY of 4 bytes on an open stream", stream_error(FRAME_SIZE_ERROR),
    sends(lambda c: [post(c), raw(PRIORITY, 0, 1, bytes(4))]))
row("priority.length_6", "9113 §6.3", "PRIORITY of 6 bytes on an open stream", stream_error(FRAME_SIZE_ERROR),
    sends(lambda c: [post(c), raw(PRIORITY, 0, 1, bytes(6))]))
row("priority.on_itself", "9113 §5.3.1", "a stream that depends on itself (an error until RFC 9113)",
    ignored | stream_error(PROTOCOL_ERROR), sends(lambda c: [priority(1, depends_on=1)]))
row("priority.headers_on_itself", "9113 §5.3.1", "HEADERS of a stream that depends on itself",
    answered() | stream_error(PROTOCOL_ERROR), sends(lambda c: [headers(1, c.fields(), priority=(1, 15, False))]))
row("priority.whatever", "9113 §5.3.2", "PRIORITY with all weights, dependencies and a loop", ignored,
    sends(lambda c: [priority(3, 5, 0), priority(5, 3, 255, True), priority(7, 0, 15), priority(WINDOW_MAX, 7, 1, True)]))

# ---- §6.4 RST_STREAM

row("rst_stream.stream_0", "9113 §6.4", "RST_STREAM on stream 0", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [raw(RST_STREAM, 0, 0, bytes(4))]))
row("rst_stream.length_3", "9113 §6.4", "RST_STREAM of 3 bytes", connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [post(c), raw(RST_STREAM, 0, 1, bytes(3))]))
row("rst_stream.length_5", "9113 §6.4", "RST_STREAM of 5 bytes", connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [post(c), raw(RST_STREAM, 0, 1, bytes(5))]))
row("rst_stream.unknown_code", "9113 §7", "RST_STREAM with an unknown code", ignored,
    sends(lambda c: [post(c), rst_stream(1, 0xFEEDBEEF)]))


@case("rst_stream.stops_the_upstream", "9113 §8.7, ours", "a request that the origin holds, then RST_STREAM",
      "the origin loses its connection", law="gateway")
async def _(c):
    origin = c.target.origin
    if not origin:
        raise NotApplicable("there is no origin behind it")
    await c.send(get(c, path="/hold"))
    demand(await origin.sees(lambda: origin.of(c.token)), "the request did not come to the origin")
    await c.send(rst_stream(1))
    demand(await origin.sees(lambda: origin.of(c.token)[0].aborted), "the origin still waits")
    return ignored


# ---- §6.5 SETTINGS

row("settings.ack_with_payload", "9113 §6.5", "an acknowledgement with a payload", connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [raw(SETTINGS, ACK, 0, b"\0\x03\0\0\0\x64")]))
row("settings.stream_1", "9113 §6.5", "SETTINGS on stream 1", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [raw(SETTINGS, 0, 1)]))
row("settings.length_5", "9113 §6.5", "SETTINGS of 5 bytes", connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [raw(SETTINGS, 0, 0, bytes(5))]))
row("settings.length_7", "9113 §6.5", "SETTINGS of 7 bytes", connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [raw(SETTINGS, 0, 0, b"\0\x03\0\0\0\x64\0")]))
row("settings.push_2", "9113 §6.5.2", "SETTINGS_ENABLE_PUSH of 2", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [settings_pairs((ENABLE_PUSH, 2))]))
row("settings.window_too_large", "9113 §6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE of 2^31", connection_error(FLOW_CONTROL_ERROR),
    sends(lambda c: [settings_pairs((INITIAL_WINDOW_SIZE, 1 << 31))]))
row("settings.window_largest", "9113 §6.5.2", "SETTINGS_INITIAL_WINDOW_SIZE of 2^31-1", ignored,
    sends(lambda c: [settings_pairs((INITIAL_WINDOW_SIZE, WINDOW_MAX))]))
row("settings.frame_too_small", "9113 §6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^14-1", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [settings_pairs((MAX_FRAME_SIZE, FRAME_DEFAULT - 1))]))
row("settings.frame_too_large", "9113 §6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^24", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [settings_pairs((MAX_FRAME_SIZE, 1 << 24))]))
row("settings.frame_edges", "9113 §6.5.2", "SETTINGS_MAX_FRAME_SIZE of 2^24-1, then of 2^14", ignored,
    sends(lambda c: [settings_pairs((MAX_FRAME_SIZE, (1 << 24) - 1)), settings_pairs((MAX_FRAME_SIZE, FRAME_DEFAULT))]))
row("settings.connect_protocol", "8441 §3", "SETTINGS_ENABLE_CONNECT_PROTOCOL from a client", ignored,
    sends(lambda c: [settings_pairs((ENABLE_CONNECT_PROTOCOL, 1))]))
row("settings.connect_protocol_2", "8441 §3", "SETTINGS_ENABLE_CONNECT_PROTOCOL of 2", connection_error(PROTOCOL_ERROR) | ignored,
    sends(lambda c: [settings_pairs((ENABLE_CONNECT_PROTOCOL, 2))]))
row("settings.no_priorities_2", "9218 §2.1", "SETTINGS_NO_RFC7540_PRIORITIES of 2",
    connection_error(PROTOCOL_ERROR) | ignored, sends(lambda c: [settings_pairs((NO_RFC7540_PRIORITIES, 2))]))
row("settings.ack_of_nothing", "9113 §6.5", "an acknowledgement of nothing", ignored | connection_error(PROTOCOL_ERROR),
    sends(lambda c: [settings_ack()]))


@case("settings.each_acknowledged", "9113 §6.5.3", "ten SETTINGS", "ten acknowledgements, in order")
async def _(c):
    await c.send(*(settings({INITIAL_WINDOW_SIZE: 1000 + at}) for at in range(10)))
    demand(await c.until(lambda: c.acknowledged == 11), f"{c.acknowledged - 1} acknowledgements")
    demand(await c.quiet() and c.acknowledged == 11, f"{c.acknowledged - 1} acknowledgements")


@case("settings.last_value_counts", "9113 §6.5.3", "SETTINGS_INITIAL_WINDOW_SIZE twice in one frame: 5, then 3",
      "three bytes of DATA")
async def _(c):
    c.credits = False
    await c.send(settings_pairs((INITIAL_WINDOW_SIZE, 5), (INITIAL_WINDOW_SIZE, 3)))
    await c.request("/size/100")
    await c.until(lambda: len(c.streams[1].body) >= 3)
    demand(await c.quiet(), c.describe())
    demand(len(c.streams[1].body) == 3, c.describe())


# ---- §6.6 PUSH_PROMISE

row("push_promise.open_stream", "9113 §6.6, §8.4", "PUSH_PROMISE from a client on an open stream", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [post(c), raw(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + block(c.fields()))]))
row("push_promise.stream_0", "9113 §6.6", "PUSH_PROMISE on stream 0", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [raw(PUSH_PROMISE, END_HEADERS, 0, b"\0\0\0\x02" + block(c.fields()))]))

# ---- §6.7 PING


@case("ping.echoed", "9113 §6.7", "PINGs with different payloads", "each comes back once, as it was")
async def _(c):
    payloads = [bytes([at]) * 8 for at in range(8)]
    await c.send(*map(ping, payloads))
    demand(await c.until(lambda: len(c.pongs) >= 8) and await c.quiet(), c.describe())
    demand(c.pongs[:8] == payloads and len(c.pongs) == 10, repr(c.pongs))


@case("ping.ack_not_answered", "9113 §6.7", "PING with ACK that answers nothing", "no answer")
async def _(c):
    await c.send(ping(b"answered", ack=True))
    demand(await c.quiet() and b"answered" not in c.pongs, c.describe())
    return ignored


@case("ping.while_blocked", "9113 §6.7", "PING while a response waits for a window", "it comes back")
async def _(c):
    c.credits = False
    await c.send(settings({INITIAL_WINDOW_SIZE: 0}))
    await c.request("/size/100000")
    await c.until(lambda: c.streams[1].status)
    demand(await c.quiet(), c.describe())


row("ping.stream_1", "9113 §6.7", "PING on stream 1", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [raw(PING, 0, 1, b"ringwall")]))
for length in (0, 7, 9):
    row(f"ping.length_{length}", "9113 §6.7", f"PING of {length} bytes", connection_error(FRAME_SIZE_ERROR),
        sends(lambda c, length=length: [raw(PING, 0, 0, bytes(length))]))

# ---- §6.8 GOAWAY

row("goaway.stream_1", "9113 §6.8", "GOAWAY on stream 1", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [raw(GOAWAY, 0, 1, bytes(8))]))
row("goaway.length_7", "9113 §6.8, §4.2", "GOAWAY of 7 bytes", connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [raw(GOAWAY, 0, 0, bytes(7))]))


async def goaway_within(c, *frames):
    await c.send(settings({INITIAL_WINDOW_SIZE: 10}))
    c.credits = False
    await c.request("/size/1000")
    await c.until(lambda: len(c.streams[1].body) == 10)
    await c.send(*frames, window_update(1, 2000))
    found = await c.response(1)
    demand(found.ended and len(found.body) == 1000, c.describe())


@case("goaway.lets_end", "9113 §6.8", "GOAWAY while a response comes", "the response ends whole")
async def _(c):
    await goaway_within(c, goaway(0, NO_ERROR, b"good bye"))


@case("goaway.unknown_code", "9113 §6.8, §7", "GOAWAY with an unknown code while a response comes", "no special behaviour",
      law="gateway")
async def _(c):
    await goaway_within(c, goaway(0, 0xFEEDBEEF))


@case("goaway.twice", "9113 §6.8", "GOAWAY twice while a response comes", "the response ends whole")
async def _(c):
    await goaway_within(c, goaway(0), goaway(0))


# ---- §6.9 WINDOW_UPDATE

row("window_update.zero_connection", "9113 §6.9", "an increment of 0 of the connection's window", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [raw(WINDOW_UPDATE, 0, 0, bytes(4))]))
row("window_update.zero_stream", "9113 §6.9", "an increment of 0 of a stream's window", stream_error(PROTOCOL_ERROR),
    sends(lambda c: [post(c), raw(WINDOW_UPDATE, 0, 1, bytes(4))]))
row("window_update.length_3", "9113 §6.9", "WINDOW_UPDATE of 3 bytes", connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [raw(WINDOW_UPDATE, 0, 0, b"\0\0\1")]))
row("window_update.length_5", "9113 §6.9", "WINDOW_UPDATE of 5 bytes on an open stream", connection_error(FRAME_SIZE_ERROR),
    sends(lambda c: [post(c), raw(WINDOW_UPDATE, 0, 1, b"\0\0\0\1\0")]))
row("window_update.reserved_bit", "9113 §6.9", "an increment with the reserved bit set", ignored,
    sends(lambda c: [raw(WINDOW_UPDATE, 0, 0, b"\x80\0\0\1")]))
row("window_update.connection_overflow", "9113 §6.9.1", "a window of the connection above 2^31-1",
    connection_error(FLOW_CONTROL_ERROR), sends(lambda c: [window_update(0, WINDOW_MAX), window_update(0, WINDOW_MAX)]))
row("window_update.stream_overflow", "9113 §6.9.1", "a window of a stream above 2^31-1", stream_error(FLOW_CONTROL_ERROR),
    sends(lambda c: [post(c), window_update(1, WINDOW_MAX), window_update(1, WINDOW_MAX)]))
row("window_update.connection_largest", "9113 §6.9.1", "a window of the connection of just 2^31-1", ignored,
    sends(lambda c: [window_update(0, WINDOW_MAX - WINDOW_DEFAULT)]))
row("window_update.overflow_by_settings", "9113 §6.9.2", "a window of a stream that a new initial size lifts above 2^31-1",
    connection_error(FLOW_CONTROL_ERROR),
    sends(lambda c: [post(c), window_update(1, WINDOW_MAX - WINDOW_DEFAULT), settings_pairs((INITIAL_WINDOW_SIZE, WINDOW_DEFAULT + 1))]))


def overflows(c):
    return c.closed or any(stream.reset == FLOW_CONTROL_ERROR for stream in c.streams.values())


async def beyond(c, streams):
    """Far more DATA than any window and all buffers of kernels, to an origin that does not read: 8 MiB on each stream."""
    if not c.target.origin:
        raise NotApplicable("there is no origin behind it")
    await c.send(*(post(c, stream) for stream in streams))
    burst = b"".join(data(stream, bytes(FRAME_DEFAULT)) for stream in streams)
    for _ in range(512):
        if overflows(c) or not await c.blast(burst):
            break


@case("window.stream_exceeded", "9113 §6.9.1, ours", "8 MiB of DATA on one stream that the origin does not read",
      "FLOW_CONTROL_ERROR", law="gateway", alone=True)
async def _(c):
    await beyond(c, [1])
    return stream_error(FLOW_CONTROL_ERROR)


@case("window.exceeded_by_many", "9113 §6.9.1, ours", "8 MiB of DATA on each of 8 streams that the origin does not read",
      "FLOW_CONTROL_ERROR", law="gateway", alone=True)
async def _(c):
    await beyond(c, range(1, 17, 2))
    await c.until(lambda: overflows(c))
    # §6.9.1: of a stream or of the connection, whichever window is the first to be exceeded.
    found = [stream for stream in c.streams if c.streams[stream].reset == FLOW_CONTROL_ERROR]
    return connection_error(FLOW_CONTROL_ERROR) if not found else None


# ---- §6.10 CONTINUATION

row("continuation.many", "9113 §6.10", "a field block in six frames", answered(),
    lambda c: c.send(*in_pieces(c, 6)), origin="one")
row("continuation.after_empty_headers", "9113 §6.10", "an empty HEADERS, and the field block in CONTINUATION", answered(),
    sends(lambda c: [headers(1, b"", end_headers=False), continuation(1, block(c.fields()))]), origin="one")
row("continuation.split_within_a_field", "9113 §6.10", "a field block that is cut within a Huffman string", answered(),
    sends(lambda c: [headers(1, block(c.fields())[:-3], end_headers=False), continuation(1, block(c.fields())[-3:])]),
    origin="one")
row("continuation.empty_between", "9113 §6.10", "three empty CONTINUATION frames within a field block", answered(),
    sends(lambda c: [headers(1, b"", end_headers=False), *[continuation(1, b"", False)] * 3, continuation(1, block(c.fields()))]),
    origin="one")
row("continuation.after_end_headers", "9113 §6.10", "CONTINUATION behind END_HEADERS", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [post(c), continuation(1, block([("x", "y")]))]))
row("continuation.after_continuation", "9113 §6.10", "CONTINUATION behind a CONTINUATION with END_HEADERS",
    connection_error(PROTOCOL_ERROR),
    sends(lambda c: [headers(1, block(c.fields("/hold", "POST")), end_stream=False, end_headers=False), continuation(1, b""),
                     continuation(1, b"")]))
row("continuation.stream_0", "9113 §6.10", "CONTINUATION on stream 0", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [headers(1, block(c.fields()), end_headers=False), raw(CONTINUATION, END_HEADERS, 0)]), origin="nothing")
row("continuation.other_stream", "9113 §6.10", "CONTINUATION on another stream", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [headers(1, block(c.fields()), end_headers=False), continuation(3, b"")]), origin="nothing")
row("continuation.behind_data", "9113 §6.10", "CONTINUATION behind DATA", connection_error(PROTOCOL_ERROR),
    sends(lambda c: [post(c), data(1, b"x"), continuation(1, block([("x", "y")]))]))


def in_pieces(c, count):
    whole = block(c.fields())
    size = -(-len(whole) // count)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    return [headers(1, pieces[0], end_headers=False)] + [
        continuation(1, piece, end_headers=at == len(pieces) - 2) for at, piece in enumerate(pieces[1:])]


# ---- RFC 9218 PRIORITY_UPDATE

row("priority_update.idle", "9218 §7.1", "PRIORITY_UPDATE before its request", answered(),
    sends(lambda c: [priority_update(1, b"u=0, i"), get(c)]), origin="one")
row("priority_update.open", "9218 §7.1", "PRIORITY_UPDATE of an open stream", answered(),
    sends(lambda c: [post(c, path="/ok"), priority_update(1, b"u=7"), data(1, b"", True)]))
row("priority_update.bad_value", "9218 §4, §7.1", "PRIORITY_UPDATE whose value is no dictionary",
    ignored | connection_error(PROTOCOL_ERROR), sends(lambda c: [priority_update(1, b"u=99, ,,\xff")]))
row("priority_update.on_stream", "9218 §7.1", "PRIORITY_UPDATE that is not on stream 0",
    connection_error(PROTOCOL_ERROR) | ignored, sends(lambda c: [priority_update(1, stream=1)]))
row("priority_update.of_0", "9218 §7.1", "PRIORITY_UPDATE of stream 0", connection_error(PROTOCOL_ERROR) | ignored,
    sends(lambda c: [priority_update(0)]))
row("priority_update.cut", "9218 §7.1, 9113 §4.2", "PRIORITY_UPDATE of 3 bytes", connection_error(FRAME_SIZE_ERROR) | ignored,
    sends(lambda c: [raw(PRIORITY_UPDATE, 0, 0, bytes(3))]))
row("priority_update.closed", "9218 §7.1", "PRIORITY_UPDATE of a closed stream", ignored, over(lambda c: [priority_update(1)]))
