"""RFC 7541 on the side of the decoder that is tested, and of its encoder."""

import json

import hpack

from connection import NotApplicable
from frames import *
from table import *

broken = connection_error(COMPRESSION_ERROR)


def blocks(id, section, what, make, outcome=broken, origin="nothing", **more):
    """A case of one field block."""

    async def run(c):
        await c.send(headers(1, make(c)))

    row(id, section, what, outcome, run, origin=origin, **more)


def right(c):
    return block(c.fields())


def plain(fields, huffman=False):
    """Literals that are not added to any table."""
    return b"".join(literal(name.encode(), value.encode(), huffman=huffman) for name, value in fields)


def huffman(coded):
    """A string whose Huffman code is what it is told."""
    return bytes([0x80 | len(coded)]) + coded


# ---- §2.3.3, §6.1 indices

blocks("hpack.index_0", "7541 §6.1", "index 0", lambda c: right(c) + b"\x80")
blocks("hpack.index_beyond", "7541 §2.3.3", "an index just behind both tables",
       lambda c: plain(c.fields()) + indexed(62))
blocks("hpack.index_huge", "7541 §2.3.3", "index 2^28", lambda c: right(c) + indexed(1 << 28))
blocks("hpack.name_index_beyond", "7541 §2.3.3, §6.2", "a literal whose name has an index behind both tables",
       lambda c: plain(c.fields()) + literal(62, b"x"))
blocks("hpack.name_index_never", "7541 §2.3.3, §6.2.3", "a never-indexed literal whose name has an index behind both tables",
       lambda c: right(c) + literal(4000, b"x", NEVER))

# ---- §4.2, §6.3 sizes of the table


def server_table(c):
    return c.settings.get(HEADER_TABLE_SIZE, 4096)


blocks("hpack.size_too_large", "7541 §6.3", "a size update above SETTINGS_HEADER_TABLE_SIZE",
       lambda c: table_size(server_table(c) + 1) + right(c))
blocks("hpack.size_huge", "7541 §6.3", "a size update to 2^31", lambda c: table_size(1 << 31) + right(c))
blocks("hpack.size_at_the_end", "7541 §4.2", "a size update at the end of a block", lambda c: right(c) + table_size(100))
blocks("hpack.size_in_the_middle", "7541 §4.2", "a size update between fields",
       lambda c: block(c.fields()[:4]) + table_size(100) + block(c.fields()[4:]))
blocks("hpack.size_zero", "7541 §6.3", "a size update to 0", lambda c: table_size(0) + right(c), answered(), "one")
blocks("hpack.size_twice", "7541 §4.2", "size updates to 0 and back", lambda c: table_size(0) + table_size(server_table(c)) + right(c),
       answered(), "one")


@case("hpack.size_empties", "7541 §4.3", "an entry, a size update to 0, and the entry's index", str(broken))
async def _(c):
    await c.send(headers(1, block(c.fields()) + literal(b"x-kept", b"1", ADDED)))
    await c.response(1)
    await c.send(headers(3, table_size(0) + table_size(server_table(c)) + block(c.fields()[:4]) + indexed(70)))
    return broken


@case("hpack.entry_larger_than_table", "7541 §4.4", "an entry larger than the table, then the index of an earlier one",
      "the first is answered, the second a COMPRESSION_ERROR")
async def _(c):
    await c.send(headers(1, block(c.fields()) + literal(b"x-large", b"l" * server_table(c), ADDED)))
    found = await c.response(1)
    demand(found.status == 200 or 400 <= found.status < 500, c.describe())
    await c.send(headers(3, plain(c.fields()) + indexed(62)))
    return broken


# ---- §5.1 integers

for name, tail in [
    ("overflow", b"\xff" * 10 + b"\x0f"), ("endless", b"\x80" * 40 + b"\x01"), ("cut", b""), ("cut_later", b"\x80\x80"),
]:
    blocks(f"hpack.integer_{name}", "7541 §5.1", f"an index of ff {tail[:12].hex()}", lambda c, tail=tail: right(c) + b"\xff" + tail)
blocks("hpack.integer_length_overflow", "7541 §5.1, §5.2", "a string length of 2^70",
       lambda c: right(c) + b"\x00\x7f" + b"\xff" * 9 + b"\x7f" + b"x")
blocks("hpack.integer_padded", "7541 §5.1", "a name's length in more bytes than it needs",
       lambda c: right(c) + b"\x00\x7f\x80\x80\x00" + b"x" * 127 + string(b"y"), answered() | broken, "any")

# ---- §5.2 strings

blocks("hpack.string_beyond_block", "7541 §5.2", "a string longer than the block", lambda c: right(c) + b"\x00\x05x")
blocks("hpack.string_no_value", "7541 §6.2", "a literal that ends behind its name", lambda c: right(c) + b"\x00\x01x")
blocks("hpack.huffman_padding_long", "7541 §5.2", "Huffman padding of more than 7 bits",
       lambda c: right(c) + b"\x00\x01x" + huffman(b"\x1f\xff"))
blocks("hpack.huffman_padding_zero", "7541 §5.2", "Huffman padding of zeros", lambda c: right(c) + b"\x00\x01x" + huffman(b"\x18"))
blocks("hpack.huffman_eos", "7541 §5.2", "EOS within a Huffman string",
       lambda c: right(c) + b"\x00\x01x" + huffman(b"\xff\xff\xff\xff"))
blocks("hpack.huffman_eos_in_name", "7541 §5.2", "EOS within a Huffman name",
       lambda c: right(c) + b"\x00" + huffman(b"\x1f\xff\xff\xff\xff") + b"\x01x")
blocks("hpack.huffman", "7541 §5.2", "every string with Huffman",
       lambda c: plain(c.fields(), huffman=True), answered(), "one")

blocks("hpack.cut_block", "9113 §4.3", "a block that ends within a field", lambda c: right(c)[:-3])
blocks("hpack.empty_block", "9113 §8.3.1", "an empty block", lambda c: b"", malformed())

# ---- §6 representations


async def each_value(c, *fields):
    """Sends literals of `/seen`; what the origin saw of them."""
    await c.send(headers(1, block(c.fields("/seen")) + b"".join(fields)))
    found = await c.response(1)
    demand(found.status == 200, c.describe())
    return dict(json.loads(found.body)["fields"])


@case("hpack.literals", "7541 §6.2", "a literal of each kind, with names by text and by index, with Huffman and without",
      "the origin sees each value")
async def _(c):
    seen = await each_value(
        c, literal(b"x-added", b"1", ADDED), literal(b"x-plain", b"2", PLAIN), literal(b"x-never", b"3", NEVER),
        literal(b"x-added-coded", b"4", ADDED, True), literal(b"x-plain-coded", b"5", PLAIN, True),
        literal(b"x-never-coded", b"6", NEVER, True), literal(19, b"text/a", ADDED), literal(17, b"de", PLAIN),
        literal(23, b"Basic Zm9v", NEVER), indexed(16))
    wanted = {"x-added": "1", "x-plain": "2", "x-never": "3", "x-added-coded": "4", "x-plain-coded": "5", "x-never-coded": "6",
              "accept": "text/a", "accept-language": "de", "accept-encoding": "gzip, deflate"}
    demand(wanted.items() <= seen.items(), repr(seen))


@case("hpack.every_byte", "7541 §5.2, Appendix B", "a value with every character that may stand in one, with Huffman",
      "the origin sees it")
async def _(c):
    value = bytes(range(0x21, 0x7F))
    seen = await each_value(c, literal(b"x-all", value, PLAIN, True))
    demand(seen.get("x-all") == value.decode(), repr(seen.get("x-all")))


@case("hpack.many_requests", "7541 §2.3.2, §4", "120 requests by one encoder, whose table overflows again and again",
      "the origin sees each value")
async def _(c):
    encoder = hpack.Encoder()
    for at in range(120):
        stream = 2 * at + 1
        fields = c.fields("/seen") + [("x-often", f"{at % 7}"), ("x-once", f"{at}" * (at % 40)), (f"x-name-{at % 11}", "v" * (at % 300))]
        await c.send(headers(stream, encoder.encode(fields, huffman=at % 2 == 0)))
        found = await c.response(stream)
        demand(found.status == 200, f"request {at}: {found.describe()}; {c.describe()}")
        seen = dict(json.loads(found.body)["fields"])
        wanted = dict(fields[5:])
        demand(all(seen.get(name, "") == value for name, value in wanted.items()), f"request {at}: {seen} for {wanted}")


@case("hpack.size_changes_between", "7541 §4.2, §6.3", "an encoder that changes its table's size between requests", "each value")
async def _(c):
    encoder = hpack.Encoder()
    for at, size in enumerate([4096, 0, 64, 4096, 100, 1000, 0, 4096]):
        encoder.header_table_size = min(size, server_table(c))
        for again in range(3):
            fields = c.fields("/seen") + [("x-often", "again"), (f"x-{size}", "v" * 50)]
            await c.send(headers(c.next_stream, encoder.encode(fields)))
            found = await c.response(max(c.streams))
            demand(found.status == 200, f"size {size}: {c.describe()}")
            seen = dict(json.loads(found.body)["fields"])
            demand(seen.get("x-often") == "again" and seen.get(f"x-{size}") == "v" * 50, repr(seen))


# ---- §4.3 of RFC 9113: one state for all blocks of the connection, whatever becomes of their streams


async def indexed_after(c, *frames):
    """Adds `x-kept` by a block that `frames` make of no use, then asks for it by its index."""
    await c.send(*frames)
    await c.quiet()
    stream = max(c.next_stream, 3)
    await c.send(headers(stream, kept_block(c)))
    found = await c.response(stream)
    demand(found.status == 200, c.describe())
    seen = dict(json.loads(found.body)["fields"])
    demand(seen.get("x-kept") == "kept", repr(seen))


def kept_block(c):
    """Right fields by literals that are not added, and index 62."""
    return plain(c.fields("/seen")) + indexed(62)


kept = literal(b"x-kept", b"kept", ADDED)


@case("hpack.state_after_malformed", "9113 §4.3", "a malformed request adds an entry, the next one uses it", "its value arrives")
async def _(c):
    await indexed_after(c, headers(1, plain(c.fields(drop=(":path",))) + kept))


@case("hpack.state_after_reset", "9113 §4.3", "a request that is reset at once adds an entry, the next one uses it",
      "its value arrives")
async def _(c):
    await indexed_after(c, headers(1, plain(c.fields("/hold")) + kept), rst_stream(1))


@case("hpack.state_after_trailers", "9113 §4.3", "trailers add an entry, the next request uses it", "its value arrives")
async def _(c):
    await indexed_after(c, headers(1, plain(c.fields("/ok", "POST")), end_stream=False), data(1, b"x"), headers(1, kept))


@case("hpack.state_after_closed", "9113 §5.1", "HEADERS on a stream that was reset add an entry, the next request uses it",
      "its value arrives, or that HEADERS was a connection error")
async def _(c):
    await c.send(headers(1, plain(c.fields("/hold", "POST")), end_stream=False), rst_stream(1), headers(1, kept))
    await c.quiet()
    if c.closed or c.goaways:
        return connection_error(STREAM_CLOSED, PROTOCOL_ERROR)
    await indexed_after(c)


@case("hpack.state_after_refusal", "9113 §4.3", "a head with too many fields adds an entry last, the next one uses it",
      "its value arrives, or the refusal was a connection error", law="gateway")
async def _(c):
    many = b"".join(literal(b"x-%d" % at, b"v") for at in range(600))
    await c.send(headers(1, plain(c.fields()) + many + kept))
    await c.until(lambda: c.closed or c.streams[1].over)
    if c.closed or c.goaways:
        return ConnectionError_((ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR, INTERNAL_ERROR), narrow=False)
    await indexed_after(c)


# ---- the encoder of what is tested; the decoder of `connection.py` refuses what is not right


@case("hpack.table_size_0", "7541 §4.2, 9113 §4.3.1", "SETTINGS_HEADER_TABLE_SIZE of 0 from the start, ten requests",
      "blocks without a dynamic table", settings={ENABLE_PUSH: 0, HEADER_TABLE_SIZE: 0})
async def _(c):
    for _ in range(10):
        await c.ask("/ok")


@case("hpack.table_size_changes", "7541 §4.2, 9113 §4.3.1", "SETTINGS_HEADER_TABLE_SIZE of 0, 4096, 64 and 65536 between requests",
      "each block begins with the size update that is due, and decodes")
async def _(c):
    for size in (4096, 0, 4096, 64, 65536, 0, 200):
        await c.ask("/ok")
        count = c.acknowledged
        await c.send(settings({HEADER_TABLE_SIZE: size}))
        demand(await c.until(lambda: c.acknowledged > count), c.describe())
        await c.ask("/ok")
        await c.ask("/connection" if c.target.origin else "/ok")


@case("hpack.table_size_twice", "7541 §4.2", "SETTINGS_HEADER_TABLE_SIZE of 0 and of 4096 between two requests",
      "the next block says the smallest size first")
async def _(c):
    await c.ask("/ok")
    count = c.acknowledged
    await c.send(settings({HEADER_TABLE_SIZE: 0}), settings({HEADER_TABLE_SIZE: 4096}))
    demand(await c.until(lambda: c.acknowledged == count + 2), c.describe())
    for _ in range(4):
        await c.ask("/ok")


# ---- too much

too_large = Status(400, 499) | Reset(()) | ConnectionError_((ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR, INTERNAL_ERROR, NO_ERROR))


@case("hpack.head_too_large", "9113 §10.5.1, 6585 §5", "a head of 300 KB in CONTINUATION frames", "431, or an error", origin="nothing")
async def _(c):
    whole = plain(c.fields()) + b"".join(literal(b"x-%d" % at, b"v" * 10_000) for at in range(30))
    pieces = [whole[at : at + 16_000] for at in range(0, len(whole), 16_000)]
    await c.send(headers(1, pieces[0], end_headers=False))
    for at, piece in enumerate(pieces[1:]):
        await c.send(continuation(1, piece, at == len(pieces) - 2))
    return too_large


@case("hpack.fields_too_many", "9113 §10.5.1", "a head of 5,000 small fields", "431, or an error", origin="nothing", law="gateway")
async def _(c):
    whole = plain(c.fields()) + b"".join(literal(b"x", b"v") for at in range(5000))
    pieces = [whole[at : at + 16_000] for at in range(0, len(whole), 16_000)]
    await c.send(headers(1, pieces[0], end_headers=False),
                 *[continuation(1, piece, at == len(pieces) - 2) for at, piece in enumerate(pieces[1:])])
    return too_large


def large_head(c, count):
    """A request with so many fields of 10,000 bytes."""
    whole = plain(c.fields()) + b"".join(literal(b"x-%d" % at, b"v" * 10_000) for at in range(count))
    pieces = [whole[at : at + 16_000] for at in range(0, len(whole), 16_000)]
    return [headers(1, pieces[0], end_headers=False),
            *[continuation(1, piece, at == len(pieces) - 2) for at, piece in enumerate(pieces[1:])]]


@case("hpack.head_too_large_then_right", "9113 §10.5.1", "a head of 60 KB, then a right request", "431, then 200", law="gateway")
async def _(c):
    await c.send(*large_head(c, 6))
    found = await c.response(1)
    demand(found.status == 431, c.describe())
    await c.ask()


row("hpack.block_too_large", "9113 §10.5.1, ours", "a field block of 100 KB", calm, lambda c: c.send(*large_head(c, 10)),
    law="gateway", origin="nothing")
