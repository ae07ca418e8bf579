"""Bytes of HTTP/2 frames and of HPACK blocks, right ones and wrong ones.

Right frames are made by `hyperframe` and right blocks by `hpack`, so that nothing that is tested has made what it is
tested with. `raw` writes a frame header as it is told, for all that those two would refuse to make.
"""

import struct

from hpack import Encoder
from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# RFC 9113 §6: types of frames; RFC 9218 §7.1 the last.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PRIORITY_UPDATE = 0x10

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

# RFC 9113 §6.5.2; RFC 8441 §3; RFC 9218 §2.1.
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
ENABLE_CONNECT_PROTOCOL = 8
NO_RFC7540_PRIORITIES = 9

# RFC 9113 §7.
CODES = (
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
    "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY HTTP_1_1_REQUIRED"
).split()
(
    NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR,
    REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY, HTTP_1_1_REQUIRED,
) = range(14)

WINDOW_MAX = 2**31 - 1
WINDOW_DEFAULT = 65535
FRAME_DEFAULT = 16384


def code_name(code):
    return CODES[code] if code < len(CODES) else f"{code:#x}"


def raw(kind, flags, stream, payload=b"", length=None, reserved=False):
    """A frame whose header says just this; `length` may lie."""
    length = len(payload) if length is None else length
    head = struct.pack(">HBBBL", length >> 8, length & 0xFF, kind, flags, stream | (0x80000000 if reserved else 0))
    return head + payload


def block(fields, huffman=True):
    """A field block that needs no state but the static table; it leaves entries in the dynamic table behind it."""
    return Encoder().encode(fields, huffman=huffman)


def headers(stream, fields, end_stream=True, end_headers=True, pad=None, priority=None):
    """HEADERS; `fields` is a list of pairs, or a block; `priority` is (depends on, weight, exclusive)."""
    frame = HeadersFrame(stream)
    frame.data = fields if isinstance(fields, bytes) else block(fields)
    if end_stream:
        frame.flags.add("END_STREAM")
    if end_headers:
        frame.flags.add("END_HEADERS")
    if pad is not None:
        frame.flags.add("PADDED")
        frame.pad_length = pad
    if priority is not None:
        frame.flags.add("PRIORITY")
        frame.depends_on, frame.stream_weight, frame.exclusive = priority
    return frame.serialize()


def continuation(stream, data, end_headers=True):
    frame = ContinuationFrame(stream, data=data)
    if end_headers:
        frame.flags.add("END_HEADERS")
    return frame.serialize()


def data(stream, payload=b"", end_stream=False, pad=None):
    frame = DataFrame(stream, payload)
    if end_stream:
        frame.flags.add("END_STREAM")
    if pad is not None:
        frame.flags.add("PADDED")
        frame.pad_length = pad
    return frame.serialize()


def settings(values=()):
    return SettingsFrame(0, settings=dict(values)).serialize()


def settings_pairs(*pairs):
    """SETTINGS with any values, the same one twice too."""
    return raw(SETTINGS, 0, 0, b"".join(struct.pack(">HL", *pair) for pair in pairs))


def settings_ack():
    return SettingsFrame(0, flags=["ACK"]).serialize()


def ping(payload=b"ringwall", ack=False):
    return PingFrame(0, payload, flags=["ACK"] if ack else []).serialize()


def rst_stream(stream, code=CANCEL):
    return RstStreamFrame(stream, code).serialize()


def goaway(last=0, code=NO_ERROR, more=b""):
    return GoAwayFrame(0, last_stream_id=last, error_code=code, additional_data=more).serialize()


def window_update(stream, increment):
    return WindowUpdateFrame(stream, increment).serialize()


def priority(stream, depends_on=0, weight=15, exclusive=False):
    return PriorityFrame(stream, depends_on=depends_on, stream_weight=weight, exclusive=exclusive).serialize()


def priority_update(prioritized, value=b"u=1", stream=0):
    return raw(PRIORITY_UPDATE, 0, stream, struct.pack(">L", prioritized) + value)


def integer(value, bits, first=0):
    """RFC 7541 §5.1, with the bits before the prefix."""
    encoded = encode_integer(value, bits)
    encoded[0] |= first
    return bytes(encoded)


def string(value, huffman=False):
    if huffman:
        coded = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(value)
        return integer(len(coded), 7, 0x80) + coded
    return integer(len(value), 7) + value


def indexed(index):
    return integer(index, 7, 0x80)


# How a literal is written: RFC 7541 §6.2.1 to §6.2.3, with the bits of the prefix.
ADDED, PLAIN, NEVER = (0x40, 6), (0x00, 4), (0x10, 4)


def literal(name, value, how=PLAIN, huffman=False):
    """A literal; `name` is text or an index."""
    first, bits = how
    if isinstance(name, int):
        return integer(name, bits, first) + string(value, huffman)
    return bytes([first]) + string(name, huffman) + string(value, huffman)


def table_size(size):
    """RFC 7541 §6.3."""
    return integer(size, 5, 0x20)
