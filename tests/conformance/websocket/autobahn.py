"""The cases of the Autobahn test suite, from a client through a node to an origin and back, with frames that `websockets` and this file make.

    autobahn.py --plain PORT --h2c PORT --origin ADDRESS:PORT [--bridge ADDRESS:PORT] [--only ID] [--way WAY]

Its published form needs Python 2, so its list stands here again, under its numbers: 1 framing, 2 pings and pongs, 3 reserved bits,
4 opcodes, 5 fragments, 6 UTF-8, 7 closing, 9 sizes (scaled: 4 MiB at most, 200 messages in line), 10 a frame cut into many, 12 and 13
`permessage-deflate` (4 messages a case where it has 1,000). Group 0 is ours: masks and lengths.

A case is a table row: what one end, the tester, sends, and what must come of it at both. The other end echoes. Each case runs

- over HTTP/1.1 and as a stream of HTTP/2 (RFC 8441), where one end of the tunnel is always HTTP/1.1;
- with the tester as client and, where it is about frames, as origin.

What passes must be the very bytes that were sent. What breaks the law must not pass, not even its first byte; its sender is told why
(1002, 1007, 1009) and the other end that its peer is gone (1001, or 1014 for a client). Group 6 runs twice: where nobody looks into
messages both ends judge the text themselves, and where a schema does (`/judged/`) the node does.

One JSON object a line: `id`, `state`, and what came if that was wrong.
"""

import argparse
import asyncio
import base64
import codecs
import itertools
import json
import os
import socket
import struct

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.frames import Close, Frame, Opcode
from websockets.headers import build_extension, parse_extension
from websockets.streams import StreamReader
from websockets.utils import accept_key

import bridge

AT_ONCE = 24
SECONDS = 15
CLIENT, ORIGIN = "client", "origin"

# ---- what a case is


class Wrong(Exception):
    """What came is not what must come."""


def same(came, expected, of):
    if came != expected:
        raise Wrong(f"{of}: {short(came)} instead of {short(expected)}")


def short(what):
    text = repr(what)
    return text if len(text) < 300 else f"{text[:200]}… ({len(text)})"


def frame(opcode, payload=b"", fin=True):
    """A frame that `websockets` makes: bytes, for who masks or not."""
    return lambda masks, extensions=(): Frame(Opcode(opcode), payload, fin).serialize(mask=masks, extensions=extensions)


def text(payload, fin=True):
    return frame(Opcode.TEXT, payload if isinstance(payload, bytes) else payload.encode(), fin)


def binary(payload, fin=True):
    return frame(Opcode.BINARY, payload, fin)


def more(payload, fin=False):
    return frame(Opcode.CONT, payload if isinstance(payload, bytes) else payload.encode(), fin)


def ping(payload=b""):
    return frame(Opcode.PING, payload)


def pong(payload=b""):
    return frame(Opcode.PONG, payload)


def close(code=None, reason=b""):
    return frame(Opcode.CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def odd(first, payload=b"", masked=None, length=None):
    """A frame that no library makes: its first byte, a mask where there may be none, a length in another form."""
    def bytes_of(masks, extensions=()):
        has_mask = masks if masked is None else masks != masked
        bit = 0x80 if has_mask else 0
        if length is not None:
            head = bytes([first, bit | length[0]]) + length[1:]
        elif len(payload) < 126:
            head = bytes([first, bit | len(payload)])
        else:
            head = bytes([first, bit | 126]) + struct.pack("!H", len(payload))
        if not has_mask:
            return head + payload
        mask = os.urandom(4)
        return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes_of


class Case:
    """`sends` are frames; `cut` is how they are written: "whole", "frames" (each by itself), or a number of bytes."""

    def __init__(self, id, sends, cut="whole", *, answers=None, fails=None, passes=None, path="/echo/", testers=(CLIENT, ORIGIN),
                 closes=None, judged=False, deflate=None, pause=0):
        self.id, self.sends, self.cut, self.path, self.testers = id, sends, cut, path, testers
        self.answers = answers  # what the other end answers: [("text", b"…"), ("pong", b"…")]
        self.fails = fails  # (code, the client's reason, the upstream's reason)
        self.passes = passes  # how many of the frames reach the other end; all of them without a number
        self.closes = closes  # the payload of the Close frame that comes back, where the case sends one itself
        self.judged, self.deflate, self.pause = judged, deflate, pause

    def is_left_to_the_end(self):
        """Whether it is the other end that finds what is wrong."""
        return self.fails is NO_TEXT


FRAME, MESSAGE = "upstream_websocket_frame", "upstream_websocket_message"
RESERVED = (1002, "websocket_reserved", FRAME)
CONTROL = (1002, "websocket_control", FRAME)
ORDER = (1002, "websocket_continuation", FRAME)
CLOSE = (1002, "websocket_close", FRAME)
MASK = (1002, "websocket_mask", FRAME)
LENGTH = (1002, "websocket_length", FRAME)
# Said by the other end, who reads it.
NO_TEXT = (1007, "no text", "no text")


def cases():
    yield from masks_and_lengths()
    yield from framing()
    yield from pings()
    yield from reserved_bits()
    yield from opcodes()
    yield from fragments()
    yield from utf8()
    yield from closing()
    yield from sizes()
    yield from compression()


def masks_and_lengths():
    # RFC 6455 §5.1, §5.2.
    yield Case("0.1.1", [odd(0x81, b"plain", masked=True)], fails=MASK, passes=0)
    yield Case("0.1.2", [text("one"), odd(0x89, b"", masked=True)], answers=[("text", b"one")], fails=MASK, passes=1)
    yield Case("0.2.1", [odd(0x82, b"x" * 125, length=b"\x7e\x00\x7d")], fails=LENGTH, passes=0)
    yield Case("0.2.2", [odd(0x82, b"x" * 126, length=b"\x7f" + struct.pack("!Q", 126))], fails=LENGTH, passes=0)
    yield Case("0.2.3", [odd(0x82, b"", length=b"\x7f" + struct.pack("!Q", 1 << 63))], fails=LENGTH, passes=0)
    # Of a message that is declared to be too large not even the head goes on.
    size = (1009, "websocket_message_size", MESSAGE)
    yield Case("0.3.1", [odd(0x82, b"", length=b"\x7f" + struct.pack("!Q", (1 << 20) + 1))], fails=size, passes=0)
    yield Case("0.3.2", [binary(b"x" * (1 << 20), fin=False), odd(0x80, b"x")], fails=size, passes=1)


def framing():
    for group, make, kind, unit in [("1.1", text, "text", b"*"), ("1.2", binary, "binary", b"\xfe")]:
        for number, size in enumerate([0, 125, 126, 127, 128, 65_535, 65_536], 1):
            yield Case(f"{group}.{number}", [make(unit * size)], answers=[(kind, unit * size)])
        yield Case(f"{group}.8", [make(unit * 65_536)], 997, answers=[(kind, unit * 65_536)])


def pings():
    some = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
    yield Case("2.1", [ping()], answers=[("pong", b"")])
    yield Case("2.2", [ping(b"Hello, world!")], answers=[("pong", b"Hello, world!")])
    yield Case("2.3", [ping(some)], answers=[("pong", some)])
    yield Case("2.4", [ping(b"\xfe" * 125)], answers=[("pong", b"\xfe" * 125)])
    yield Case("2.5", [odd(0x89, b"\xfe" * 126)], fails=CONTROL, passes=0)
    yield Case("2.6", [ping(b"\xfe" * 125)], 1, answers=[("pong", b"\xfe" * 125)])
    yield Case("2.7", [pong()], answers=[])
    yield Case("2.8", [pong(b"unsolicited pong payload")], answers=[])
    yield Case("2.9", [pong(b"unsolicited pong payload"), ping(b"ping payload")], answers=[("pong", b"ping payload")])
    ten = [b"payload-%d" % number for number in range(10)]
    for id, cut in [("2.10", "whole"), ("2.11", 1)]:
        yield Case(id, [ping(payload) for payload in ten], cut, answers=[("pong", payload) for payload in ten])


def reserved_bits():
    small = b"small text"
    yield Case("3.1", [odd(0x80 | 1 << 4 | 1, small)], fails=RESERVED, passes=0)
    for id, rsv, cut in [("3.2", 2, "whole"), ("3.3", 3, "frames"), ("3.4", 4, 1)]:
        yield Case(id, [text(small), odd(0x80 | rsv << 4 | 1, small), ping()], cut, answers=[("text", small)], fails=RESERVED, passes=1)
    yield Case("3.5", [odd(0x80 | 5 << 4 | 2, b"\xff" * 8)], fails=RESERVED, passes=0)
    yield Case("3.6", [odd(0x80 | 6 << 4 | 9, b"ping")], fails=RESERVED, passes=0)
    yield Case("3.7", [odd(0x80 | 7 << 4 | 8, struct.pack("!H", 1000))], fails=RESERVED, passes=0)


def opcodes():
    small = b"small text"
    for group, first in [("4.1", 3), ("4.2", 11)]:
        yield Case(f"{group}.1", [odd(0x80 | first)], fails=RESERVED, passes=0)
        yield Case(f"{group}.2", [odd(0x80 | first + 1, b"reserved opcode payload")], fails=RESERVED, passes=0)
        for number, payload, cut in [(3, b"", "whole"), (4, b"reserved opcode payload", "frames"), (5, b"reserved opcode payload", 1)]:
            yield Case(f"{group}.{number}", [text(small), odd(0x80 | first + number - 1, payload), ping()], cut,
                       answers=[("text", small)], fails=RESERVED, passes=1)


def fragments():
    one, two = "fragment1", "fragment2"
    both, whole = [text(one, False), more(two, True)], (one + two).encode()
    yield Case("5.1", [odd(0x09, b"fragment1"), odd(0x80, b"fragment2")], fails=CONTROL, passes=0)
    yield Case("5.2", [odd(0x0a, b"fragment1"), odd(0x80, b"fragment2")], fails=CONTROL, passes=0)
    for id, cut in [("5.3", "whole"), ("5.4", "frames"), ("5.5", 1)]:
        yield Case(id, both, cut, answers=[("text", whole)])
    for id, cut in [("5.6", "whole"), ("5.7", "frames"), ("5.8", 1)]:
        yield Case(id, [both[0], ping(b"ping payload"), both[1]], cut, answers=[("pong", b"ping payload"), ("text", whole)])
    alone = [odd(0x80, b"non-continuation payload"), text("Hello, world!")]
    begun = [odd(0x00, b"non-continuation payload"), text("Hello, world!")]
    for ids, sends in [(("5.9", "5.10", "5.11"), alone), (("5.12", "5.13", "5.14"), begun)]:
        for id, cut in zip(ids, ["whole", "frames", 1]):
            yield Case(id, sends, cut, fails=ORDER, passes=0)
    yield Case("5.15", [*both, odd(0x00, b"fragment3"), text("fragment4")], answers=[("text", whole)], fails=ORDER, passes=2)
    yield Case("5.16", [odd(0x00, b"fragment1"), text("fragment2", False), more("fragment3", True)] * 2, fails=ORDER, passes=0)
    yield Case("5.17", [odd(0x80, b"fragment1"), text("fragment2", False), more("fragment3", True)] * 2, fails=ORDER, passes=0)
    yield Case("5.18", [text(one, False), odd(0x81, b"fragment2")], fails=ORDER, passes=1)
    five = [text("fragment1", False), more("fragment2"), ping(b"pongme 1!"), more("fragment3"), more("fragment4"), ping(b"pongme 2!"),
            more("fragment5", True)]
    answers = [("pong", b"pongme 1!"), ("pong", b"pongme 2!"), ("text", b"fragment1fragment2fragment3fragment4fragment5")]
    yield Case("5.19", five, "frames", answers=answers, pause=3)
    yield Case("5.20", five, answers=answers)


# ---- 6: UTF-8

GREEK = "κόσμε".encode()
HELLO = "Hello-µ@ßöäüàá-UTF-8!!".encode()
BROKEN = bytes.fromhex("cebae1bdb9cf83cebcceb5eda080656469746564")


def texts():
    """Number, fragments, cut, whether it is a text."""
    yield "6.1.1", [b""], "whole", True
    yield "6.1.2", [b"", b"", b""], "whole", True
    yield "6.1.3", [b"", b"middle frame payload", b""], "whole", True
    yield "6.2.1", [HELLO], "whole", True
    yield "6.2.2", [HELLO[:12], HELLO[12:]], "whole", True
    yield "6.2.3", [HELLO[at:at + 1] for at in range(len(HELLO))], "whole", True
    yield "6.2.4", [GREEK[at:at + 1] for at in range(len(GREEK))], "whole", True
    yield "6.3.1", [BROKEN], "whole", False
    yield "6.3.2", [BROKEN[at:at + 1] for at in range(len(BROKEN))], "whole", False
    begin, bad, end = bytes.fromhex("cebae1bdb9cf83cebcceb5"), bytes.fromhex("f4908080"), b"edited"
    yield "6.4.1", [begin, bad, end], "frames", False
    yield "6.4.2", [begin + bad[:1], bad[1:2], bad[2:] + end], "frames", False
    yield "6.4.3", [begin + bad + end], 11, False
    yield "6.4.4", [begin + bad + end], 1, False
    for number, at in enumerate([1, 2, 3, 4, 5], 1):
        # Cut within and between characters, all of them there.
        yield f"6.5.{number}", [GREEK[:at], GREEK[at:]], "whole", True
    for number in range(1, len(GREEK) + 1):
        yield f"6.6.{number}", [GREEK[:number]], "whole", is_text(GREEK[:number])
    groups = {
        "6.7": ["00", "c280", "e0a080", "f0908080"],
        "6.8": ["f888808080", "fc8480808080"],
        "6.9": ["7f", "dfbf", "efbfbf", "f48fbfbf"],
        "6.10": ["f7bfbfbf", "fbbfbfbfbf", "fdbfbfbfbfbf"],
        "6.11": ["ed9fbf", "ee8080", "efbfbd", "f48fbfbf", "f4908080"],
        "6.12": ["80", "bf", *("80bf" * n + "80" * odd for n, odd in [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]),
                 bytes(range(0x80, 0xc0)).hex()],
        "6.13": [b"".join(bytes([first, 0x20]) for first in range(*ends)).hex()
                 for ends in [(0xc0, 0xe0), (0xe0, 0xf0), (0xf0, 0xf8), (0xf8, 0xfc), (0xfc, 0xfe)]],
        "6.14": (unfinished := ["c0", "e080", "f08080", "f8808080", "fc80808080", "df", "efbf", "f7bfbf", "fbbfbfbf", "fdbfbfbfbf"]),
        "6.15": ["".join(unfinished)],
        "6.16": ["fe", "ff", "fefeffff"],
        "6.17": ["c0af", "e080af", "f08080af", "f8808080af", "fc80808080af"],
        "6.18": ["c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf"],
        "6.19": ["c080", "e08080", "f0808080", "f880808080", "fc8080808080"],
        "6.20": ["eda080", "edadbf", "edae80", "edafbf", "edb080", "edbe80", "edbfbf"],
        "6.21": [high + low for high in ["eda080", "edadbf", "edae80", "edafbf"] for low in ["edb080", "edbfbf"]],
        "6.22": [chr(plane << 16 | low).encode().hex() for plane in range(17) for low in (0xfffe, 0xffff)],
        "6.23": [chr(point).encode().hex() for point in range(0xfff9, 0x10000)],
    }
    invalid = {"6.8", "6.10", *(f"6.{number}" for number in range(12, 22))}
    for group, all_of in groups.items():
        for number, digits in enumerate(all_of, 1):
            yield f"{group}.{number}", [bytes.fromhex(digits)], "whole", group not in invalid and digits != "f4908080"


def is_text(payload):
    try:
        payload.decode()
        return True
    except UnicodeDecodeError:
        return False


def fragmented(pieces):
    if len(pieces) == 1:
        return [text(pieces[0])]
    return [text(pieces[0], False), *(more(piece) for piece in pieces[1:-1]), more(pieces[-1], True)]


def utf8():
    for id, pieces, cut, valid in texts():
        whole = b"".join(pieces)
        assert is_text(whole) == valid, id
        told = {"answers": [("text", whole)]} if valid else {"fails": NO_TEXT}
        yield Case(id, fragmented(pieces), cut, **told)
        # As a JSON string, where the node reads it: what is refused must not have begun on the other side.
        quoted = [b'"' + pieces[0], *pieces[1:]]
        quoted[-1] += b'"'
        if not valid:
            told = {"fails": (1007, "websocket_text", None), "passes": 0}
        elif whole == b"\0":
            told = {"fails": (1008, "websocket_schema", None), "passes": 0}
        else:
            told = {"answers": [("text", b'"' + whole + b'"')]}
        yield Case(id + ".judged", fragmented(quoted), cut, path="/judged/", testers=(CLIENT,), judged=True, **told)


# ---- 7: closing


def closing():
    normal = struct.pack("!H", 1000)
    hello = ("text", b"Hello World!")
    yield Case("7.1.1", [text("Hello World!"), close(1000)], answers=[hello], closes=normal)
    yield Case("7.1.2", [close(1000), close(1000)], passes=1, answers=[], closes=normal)
    yield Case("7.1.3", [close(1000), ping()], passes=1, answers=[], closes=normal)
    yield Case("7.1.4", [close(1000), text("Hello World!")], passes=1, answers=[], closes=normal)
    yield Case("7.1.5", [text("fragment1", False), close(1000), more("fragment2", True)], passes=2, answers=[], closes=normal)
    large = b"BAsd7&jh23" * 26_214
    yield Case("7.1.6", [text(large), close(1000), ping()], passes=2, answers=[("text", large)], closes=normal)
    yield Case("7.3.1", [close()], answers=[], closes=b"")
    yield Case("7.3.2", [odd(0x88, b"a")], fails=CLOSE, passes=0)
    yield Case("7.3.3", [close(1000)], answers=[], closes=normal)
    yield Case("7.3.4", [close(1000, b"Hello World!")], answers=[], closes=normal + b"Hello World!")
    yield Case("7.3.5", [close(1000, b"*" * 123)], answers=[], closes=normal + b"*" * 123)
    yield Case("7.3.6", [odd(0x88, normal + b"*" * 124)], fails=CONTROL, passes=0)
    yield Case("7.5.1", [close(1000, BROKEN)], fails=(1007, "websocket_close", FRAME), passes=0)
    for number, code in enumerate([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999, 1012, 1013, 1014], 1):
        yield Case(f"7.7.{number}", [close(code)], answers=[], closes=struct.pack("!H", code))
    for number, code in enumerate([0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 1015], 1):
        yield Case(f"7.9.{number}", [close(code)], fails=CLOSE, passes=0)
    for number, code in enumerate([5000, 65_535], 1):
        yield Case(f"7.13.{number}", [close(code)], fails=CLOSE, passes=0)


# ---- 9, 10: sizes

KIB, MIB = 1 << 10, 1 << 20


def sizes():
    for group, make, kind, unit in [("9.1", text, "text", b"*"), ("9.2", binary, "binary", b"\xfe")]:
        for number, size in enumerate([64 * KIB, 256 * KIB, MIB, 4 * MIB], 1):
            yield Case(f"{group}.{number}", [make(unit * size)], answers=[(kind, unit * size)], path="/large/", testers=(CLIENT,))
    for group, make, kind, unit in [("9.3", text, "text", b"*"), ("9.4", binary, "binary", b"\xfe")]:
        for number, size in enumerate([64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB], 1):
            total = min(MIB, size * 1_024)
            count = total // size
            sends = [make(unit * size, False), *(more(unit * size) for _ in range(count - 2)), more(unit * size, True)]
            if count == 1:
                sends = [make(unit * size)]
            yield Case(f"{group}.{number}", sends, answers=[(kind, unit * total)], path="/large/", testers=(CLIENT,))
    for group, make, kind, unit in [("9.5", text, "text", b"*"), ("9.6", binary, "binary", b"\xfe")]:
        for number, cut in enumerate([64, 128, 256, 512, 1_024, 2_048], 1):
            size = cut * 256
            yield Case(f"{group}.{number}", [make(unit * size)], cut, answers=[(kind, unit * size)], path="/large/", testers=(CLIENT,))
    for group, make, kind, unit in [("9.7", text, "text", b"*"), ("9.8", binary, "binary", b"\xfe")]:
        for number, size in enumerate([0, 16, 64, 256, 1_024, 4_096], 1):
            yield Case(f"{group}.{number}", [make(unit * size)] * 200, "frames", answers=[(kind, unit * size)] * 200, testers=(CLIENT,))
    whole = b"*" * 65_536
    pieces = [whole[at:at + 1_300] for at in range(0, len(whole), 1_300)]
    yield Case("10.1.1", fragmented(pieces), answers=[("text", whole)])


# ---- 12, 13: permessage-deflate

# Size of a message, and of its frames.
DEFLATED = [(16, 0), (64, 0), (256, 0), (1_024, 0), (4_096, 0), (8_192, 0), (16_384, 0), (32_768, 0), (65_536, 0), (131_072, 0),
            (8_192, 256), (16_384, 256), (32_768, 256), (65_536, 256), (131_072, 256), (131_072, 1_024), (131_072, 4_096), (131_072, 32_768)]


class Deflate:
    """What the client offers, whether it is to be agreed on, and what is sent."""

    def __init__(self, offers, messages, size, agreed=True):
        self.offers, self.messages, self.size, self.agreed = offers, messages, size, agreed


def contents():
    words = json.dumps([{"id": number, "name": f"item {number % 7}", "tags": ["a", "b", "c"]} for number in range(3_000)]).encode()
    noise = bytes(itertools.islice(itertools.cycle(os.urandom(4_099)), 140_000))
    return {1: (text, words), 2: (binary, noise), 3: (text, ("Die Straße nach Κόσμος, 世界. " * 4_000).encode()),
            4: (binary, bytes(140_000)), 5: (text, b"*" * 140_000)}


def cut_text(content, at, size):
    """A piece of a text that is one."""
    return content[at:at + size].decode(errors="ignore").encode()


def compression():
    plain = [{}]
    offered = {1: plain, 2: [{"server_no_context_takeover": True}], 3: [{"server_max_window_bits": 9}],
               4: [{"server_max_window_bits": 15}], 5: [{"server_no_context_takeover": True, "server_max_window_bits": 9}],
               6: [{"server_no_context_takeover": True, "server_max_window_bits": 15}],
               7: [{"server_no_context_takeover": True, "server_max_window_bits": 9}, {"server_no_context_takeover": True}, {}]}
    chosen = contents()
    groups = [(f"12.{number}", content, plain) for number, content in chosen.items()]
    groups += [(f"13.{number}", chosen[1], offers) for number, offers in offered.items()]
    for group, (make, content), offers in groups:
        for number, (size, frames) in enumerate(DEFLATED, 1):
            messages = [cut_text(content, at * 101, size) if make is text else content[at * 101:at * 101 + size] for at in range(4)]
            kind = "text" if make is text else "binary"
            sends = []
            for message in messages:
                pieces = [message[at:at + frames] for at in range(0, len(message), frames)] if frames else [message]
                last = len(pieces) - 1
                sends += [make(piece, at == last) if at == 0 else more(piece, at == last) for at, piece in enumerate(pieces)]
            yield Case(f"{group}.{number}", sends, answers=[(kind, message) for message in messages], testers=(CLIENT,),
                       deflate=Deflate(offers, messages, size))
    hello = b"compress me " * 100
    # Where it is switched off, and where messages are read, both ends speak plainly, whatever the client offers.
    yield Case("12.0.1", [text(hello)], answers=[("text", hello)], path="/small/", testers=(CLIENT,), deflate=Deflate(plain, [], 0, False))
    quoted = b'"' + hello + b'"'
    yield Case("12.0.2", [text(quoted)], answers=[("text", quoted)], path="/judged/", testers=(CLIENT,), judged=True,
               deflate=Deflate(plain, [], 0, False))
    # RFC 7692 §6: RSV1 stands on the first frame of a message and on no control frame; RSV2 still means nothing.
    for number, sends in enumerate([[odd(0xc9, b"")], [odd(0xc1, b"\x4a"), odd(0xc0, b"")], [odd(0xe1, b"")]], 1):
        sends = [odd(0x41, b"\x4a"), sends[1]] if number == 2 else sends
        yield Case(f"12.0.{number + 2}", sends, fails=RESERVED, passes=len(sends) - 1, testers=(CLIENT,), deflate=Deflate(plain, [], 0))


# ---- transports


class Wire:
    """Bytes both ways, over HTTP/1.1."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def write(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def read(self):
        return await self.reader.read(1 << 16)

    def end(self):
        self.writer.close()


async def open_http1(port, path, fields):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {path} HTTP/1.1", f"Host: localhost:{port}", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}",
             "Sec-WebSocket-Version: 13", *(f"{name}: {value}" for name, value in fields)]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    same(status.split()[1], "101", "status")
    told = dict((name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in lines if line))
    same(told["sec-websocket-accept"], accept_key(key), "accept")
    return Wire(reader, writer), told


class Stream:
    """Bytes both ways in a stream of HTTP/2."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False))
        self.settled, self.answered, self.room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.data, self.over = asyncio.Queue(), False

    @classmethod
    async def open(cls, port, path, fields):
        self = cls(*await asyncio.open_connection("127.0.0.1", port))
        self.writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.http.initiate_connection()
        self.flush()
        self.reading = asyncio.create_task(self.take())
        await self.settled.wait()
        self.id = self.http.get_next_available_stream_id()
        self.http.send_headers(self.id, [
            (":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":path", path),
            (":authority", f"localhost:{port}"), ("sec-websocket-version", "13"), *fields])
        self.flush()
        await self.answered.wait()
        told = dict(self.fields)
        same(told[":status"], "200", "status")
        return self, told

    def flush(self):
        self.writer.write(self.http.data_to_send())

    async def take(self):
        try:
            while data := await self.reader.read(1 << 16):
                for event in self.http.receive_data(data):
                    self.see(event)
                self.flush()
        except ConnectionError:
            pass
        finally:
            self.finish()

    def see(self, event):
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settled.set()
        elif isinstance(event, h2.events.ResponseReceived):
            self.fields = event.headers
            self.answered.set()
        elif isinstance(event, h2.events.DataReceived):
            self.data.put_nowait(event.data)
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
            self.finish()
        elif isinstance(event, h2.events.WindowUpdated):
            self.room.set()

    def finish(self):
        self.over = True
        self.data.put_nowait(b"")
        for event in [self.settled, self.answered, self.room]:
            event.set()

    async def write(self, data):
        while data:
            if self.over:
                raise ConnectionResetError
            room = min(self.http.local_flow_control_window(self.id), self.http.max_outbound_frame_size, len(data))
            if room <= 0:
                self.room.clear()
                await self.room.wait()
                continue
            self.http.send_data(self.id, data[:room])
            data = data[room:]
            self.flush()
            await self.writer.drain()

    async def read(self):
        if self.over and self.data.empty():
            return b""
        return await self.data.get()

    def end(self):
        self.reading.cancel()
        self.writer.close()


# ---- both ends


class End:
    """One end of a WebSocket: what it was sent, as bytes and as frames that `websockets` reads."""

    def __init__(self, wire, masks, extensions):
        self.wire, self.masks, self.extensions = wire, masks, extensions
        self.raw, self.frames, self.wrong, self.over = bytearray(), [], None, asyncio.Event()
        self.input = StreamReader()
        self.parser = self.parse()
        next(self.parser)
        self.come = asyncio.Event()

    def parse(self):
        while not (yield from self.input.at_eof()):
            self.frames.append((yield from Frame.parse(self.input.read_exact, mask=not self.masks, extensions=self.extensions)))

    async def read(self, see=None):
        """Reads to the end; `see` each frame as it comes."""
        seen = 0
        try:
            while data := await self.wire.read():
                self.raw += data
                self.input.feed_data(data)
                next(self.parser)
                while seen < len(self.frames):
                    seen += 1
                    self.come.set()
                    if see and not await see(self.frames[seen - 1]):
                        see = None
        except (ProtocolError, StopIteration) as error:
            self.wrong = f"a frame that must not pass: {error!r}"
        except ConnectionError:
            pass
        finally:
            self.over.set()
            self.come.set()

    async def write(self, data):
        try:
            await self.wire.write(data)
        except (ConnectionError, h2.exceptions.ProtocolError):
            pass  # It is over: what it was told is read.

    def send(self, opcode, payload):
        return self.write(Frame(opcode, payload).serialize(mask=self.masks, extensions=self.extensions))

    def closes(self):
        return [bytes(frame.data) for frame in self.frames if frame.opcode is Opcode.CLOSE]

    def messages(self):
        """What came, but for the Close frame: messages whole, pongs, pings."""
        all_of, kind, parts = [], None, []
        for frame in self.frames:
            if frame.opcode is Opcode.CLOSE:
                break
            if frame.opcode in (Opcode.PING, Opcode.PONG):
                all_of.append((frame.opcode.name.lower(), bytes(frame.data)))
                continue
            if frame.opcode is not Opcode.CONT:
                kind, parts = frame.opcode.name.lower(), []
            parts.append(bytes(frame.data))
            if frame.fin:
                all_of.append((kind, b"".join(parts)))
        return all_of


class Echo:
    """What the other end does: sends messages back, answers pings and Close frames, and reads texts as such."""

    def __init__(self, end):
        self.end, self.kind, self.parts, self.decoder = end, None, [], None

    async def see(self, frame):
        if frame.opcode is Opcode.PING:
            await self.end.send(Opcode.PONG, bytes(frame.data))
        elif frame.opcode is Opcode.CLOSE:
            await self.end.send(Opcode.CLOSE, bytes(frame.data))
            return False
        elif frame.opcode is not Opcode.PONG:
            return await self.data(frame)
        return True

    async def data(self, frame):
        if frame.opcode is not Opcode.CONT:
            self.kind, self.parts = frame.opcode, []
            self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.parts.append(bytes(frame.data))
        try:
            if self.kind is Opcode.TEXT:
                self.decoder.decode(bytes(frame.data), final=frame.fin)
        except UnicodeDecodeError:
            await self.end.send(Opcode.CLOSE, Close(1007, "no text").serialize())
            return False
        if frame.fin:
            await self.end.send(self.kind, b"".join(self.parts))
        return True


# ---- a case


class Origin:
    """Accepts WebSockets and hands each to the case that opened it."""

    def __init__(self):
        self.waiting = {}

    async def accept(self, reader, writer):
        try:
            line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            fields = dict((name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in lines if line))
            extensions, offers = [], fields.get("sec-websocket-extensions")
            answer = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
                      f"Sec-WebSocket-Accept: {accept_key(fields['sec-websocket-key'])}"]
            for name, parameters in parse_extension(offers) if offers else []:
                agreed, extension = ServerPerMessageDeflateFactory().process_request_params(parameters, extensions)
                extensions.append(extension)
                answer.append(f"Sec-WebSocket-Extensions: {build_extension([(name, agreed)])}")
                break
            writer.write("\r\n".join([*answer, "", ""]).encode())
            wait = self.waiting.pop(line.split("?")[1].split()[0])
            wait.set_result((Wire(reader, writer), extensions, offers))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def written(chunks, cut):
    """How it is written."""
    if cut == "whole":
        yield b"".join(chunks)
    elif cut == "frames":
        yield from chunks
    else:
        whole = b"".join(chunks)
        yield from (whole[at:at + cut] for at in range(0, len(whole), cut))


async def run(case, tester, opened, origin, number):
    mark = str(number)
    waiting = origin.waiting[mark] = asyncio.get_running_loop().create_future()
    factories = [ClientPerMessageDeflateFactory(**offer) for offer in case.deflate.offers] if case.deflate else []
    offer = build_extension([(factory.name, factory.get_request_params()) for factory in factories]) if factories else None
    client_wire, told = await opened(f"{case.path}?{mark}", [("sec-websocket-extensions", offer)] if offer else [])
    origin_wire, origin_extensions, offered = await waiting
    client_extensions = []
    if case.deflate:
        same((offered, bool(origin_extensions)), (offer, True) if case.deflate.agreed else (None, False), "what the upstream is offered")
        answer = told.get("sec-websocket-extensions")
        same(bool(answer), case.deflate.agreed, "whether compression is agreed on")
        for name, parameters in parse_extension(answer) if answer else []:
            client_extensions = [factories[0].process_response_params(parameters, [])]
    client, upstream = End(client_wire, True, client_extensions), End(origin_wire, False, origin_extensions)
    here, there = (client, upstream) if tester == CLIENT else (upstream, client)

    async def answer(frame):
        # The other end has found it, and is answered as a Close frame has to be.
        if frame.opcode is Opcode.CLOSE:
            await here.send(Opcode.CLOSE, bytes(frame.data))
        return True

    reading = [asyncio.create_task(here.read(answer if case.is_left_to_the_end() else None)),
               asyncio.create_task(there.read(Echo(there).see))]
    try:
        async with asyncio.timeout(SECONDS):
            await exchange(case, here, there, tester)
    except TimeoutError:
        raise Wrong(f"it does not end: {short(here.frames)} here, {short(there.frames)} there")
    finally:
        for task in reading:
            task.cancel()
        client_wire.end()
        origin_wire.end()


async def exchange(case, here, there, tester):
    compressed = (case.deflate.agreed if case.deflate else False) and not case.fails
    chunks = [make(here.masks, here.extensions if compressed else ()) for make in case.sends]
    answers = case.answers or []
    for at, piece in enumerate(written(chunks, case.cut)):
        if case.pause and at == case.pause:
            # Until the other end has answered what came before: what is in the midst of a message is not held up by it.
            while not here.frames:
                await wait(here)
        await here.write(piece)
    if case.fails:
        await here.over.wait()
        await there.over.wait()
    elif case.closes is None:
        while len(here.messages()) < len(answers) and not here.over.is_set():
            await wait(here)
        chunks.append(close(1000)(here.masks))
        await here.write(chunks[-1])
        await here.over.wait()
        await there.over.wait()
    else:
        await here.over.wait()
        await there.over.wait()
    judge(case, here, there, tester, chunks)


async def wait(end):
    end.come.clear()
    await end.come.wait()


def judge(case, here, there, tester, chunks):
    for end, name in [(here, "here"), (there, "there")]:
        if end.wrong:
            raise Wrong(f"{name}: {end.wrong}")
    passed = chunks if case.passes is None else chunks[:case.passes]
    came, answers = here.messages(), case.answers or []
    if not case.fails:
        same(came, answers, "what comes back")
        same(here.closes(), [struct.pack("!H", 1000) if case.closes is None else case.closes], "the Close frame that comes back")
        if case.judged:
            # Collected and put together: the same message, in a frame.
            same(there.messages(), [(kind, payload) for kind, payload in answers], "what arrives")
        else:
            same(bytes(there.raw), b"".join(passed), "the bytes that arrive")
        return
    code, reason, upstream_reason = case.fails
    if case.is_left_to_the_end():
        told = Close(code, reason).serialize()
        same((here.closes(), there.closes()), ([told], [told]), "the Close frame, and the answer to it")
        answer = 2 + len(told) + (4 if tester == CLIENT else 0)
        if not b"".join(chunks).startswith(bytes(there.raw[:-answer])):
            raise Wrong("the other end got something else than was sent")
        return
    if answers[:len(came)] != came:
        raise Wrong(f"what comes back: {short(came)}")
    reason = reason if tester == CLIENT else upstream_reason
    same(here.closes(), [Close(code, reason).serialize()], "the Close frame")
    same(there.closes(), [Close(1001 if tester == CLIENT else 1014, reason).serialize()], "the other end's Close frame")
    # A Close frame of the node stands behind what passed; towards an upstream it is masked.
    farewell = 2 + 2 + len(reason) + (4 if tester == CLIENT else 0)
    same(bytes(there.raw[:-farewell]), b"".join(passed), "the bytes that arrive")


async def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plain", type=int, required=True)
    parser.add_argument("--h2c", type=int, required=True)
    parser.add_argument("--origin", required=True)
    parser.add_argument("--bridge")
    parser.add_argument("--only", default="")
    parser.add_argument("--way", default="")
    arguments = parser.parse_args()
    origin = Origin()
    host, port = arguments.origin.rsplit(":", 1)
    server = await asyncio.start_server(origin.accept, host, int(port), limit=1 << 20, backlog=256)
    if arguments.bridge:
        await bridge.bridge(arguments.bridge, arguments.origin)
    ways = {"h1": lambda path, fields: open_http1(arguments.plain, path, fields),
            "h2": lambda path, fields: Stream.open(arguments.h2c, path, fields)}
    numbers, slots = itertools.count(1), asyncio.Semaphore(AT_ONCE)

    async def one(case, way, tester):
        record = {"id": f"{way} {tester} {case.id}", "state": "passed"}
        async with slots:
            try:
                await run(case, tester, ways[way], origin, next(numbers))
            except Exception as error:  # noqa: BLE001: whatever it is, it is told
                record.update(state="failed", came=f"{type(error).__name__}: {error}")
        print(json.dumps(record), flush=True)

    all_of = [one(case, way, tester) for case in cases() for way in ways for tester in case.testers
              if arguments.way in ("", way) and (not arguments.only or case.id.startswith(arguments.only))]
    await asyncio.gather(*all_of)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
