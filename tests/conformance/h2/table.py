"""What a case is, what may come of it, and how that is judged.

An outcome holds in one of two ways. It is *allowed* where RFC 9113 leaves the choice: a connection may end without a
GOAWAY, and any stream error may be treated as an error of the connection (§5.4). It is *narrow* where the server did what
the text names first: GOAWAY with the code and then a close, RST_STREAM with the code on a connection that lives on.
"""

from dataclasses import dataclass, field
from typing import Callable, Optional

from connection import PATIENCE, Failed, NotApplicable
from frames import *

ALLOWED, NARROW = 1, 2


@dataclass
class Case:
    id: str
    section: str
    sends: str  # what is sent, in words
    allowed: Optional["Outcome"]  # None: the case judges by itself, `expects` says what
    run: Callable
    expects: str = ""
    stream: int = 1
    # What may have reached the origin: "nothing" whole, "one" request, or "any" number of them.
    origin: str = "any"
    # Whose law it is: the RFC's, or one that Ringwall puts upon itself.
    law: str = "rfc"
    transport: str = "both"
    handshake: bool = True
    settings: Optional[dict] = None
    # Abuse comes last and alone, so that no other case waits for it.
    alone: bool = False
    seconds: float = PATIENCE


CASES = {}


def add(case):
    assert case.id not in CASES, case.id
    CASES[case.id] = case


def row(id, section, sends, allowed, run, **more):
    """A case that sends what `run` makes of the connection, and is judged by what comes."""
    add(Case(id, section, sends, allowed, run, **more))


def case(id, section, sends, expects, **more):
    """A case that is a coroutine; it fails by `Failed`, or is judged by the outcome that it returns."""

    def keep(run):
        add(Case(id, section, sends, None, run, expects=expects, **more))
        return run

    return keep


def demand(holds, what):
    if not holds:
        raise Failed(what)


class Outcome:
    """`grade` says whether it has come by now: None, ALLOWED or NARROW."""

    # Whether only another request shows it.
    probes = False
    # Whether it is there as soon as what was sent has been read: nobody else has to do anything first.
    prompt = False

    def grade(self, connection, stream):
        raise NotImplementedError

    def __or__(self, other):
        return Either(self, other)


class Either(Outcome):
    def __init__(self, *parts):
        self.parts = [part for each in parts for part in (each.parts if isinstance(each, Either) else [each])]
        self.probes = any(part.probes for part in self.parts)
        self.prompt = all(part.prompt for part in self.parts)

    def grade(self, connection, stream):
        grades = [part.grade(connection, stream) for part in self.parts]
        return max((grade for grade in grades if grade), default=None)

    def __str__(self):
        return " | ".join(str(part) for part in self.parts)


class ConnectionError_(Outcome):
    prompt = True

    def __init__(self, codes, narrow=True):
        self.codes, self.narrow = codes, narrow

    def grade(self, connection, stream):
        # RFC 9113 §5.4.1: after the GOAWAY the connection is closed. The GOAWAY may be left out.
        if not connection.closed:
            return None
        if not connection.goaways:
            return ALLOWED
        if connection.goaways[-1][1] not in self.codes:
            return None
        return NARROW if self.narrow else ALLOWED

    def __str__(self):
        return "connection error " + "/".join(map(code_name, self.codes))


class Reset(Outcome):
    prompt = True

    def __init__(self, codes):
        self.codes = codes

    def grade(self, connection, stream):
        found = connection.streams.get(stream)
        if found is None or found.reset is None or (self.codes and found.reset not in self.codes):
            return None
        return ALLOWED if connection.closed or connection.goaways else NARROW

    def __str__(self):
        return "stream error " + ("/".join(map(code_name, self.codes)) or "of any kind")


class Status(Outcome):
    def __init__(self, low, high):
        self.low, self.high = low, high

    def grade(self, connection, stream):
        found = connection.streams.get(stream)
        if found is None or not found.over or found.status is None or not self.low <= found.status <= self.high:
            return None
        return ALLOWED if connection.closed or connection.goaways else NARROW

    def __str__(self):
        return f"status {self.low}" + (f" to {self.high}" if self.low != self.high else "")


class Closed(Outcome):
    def grade(self, connection, stream):
        return NARROW if connection.closed else None

    def __str__(self):
        return "closed"


class Ignored(Outcome):
    """Nothing is said about it, and the next request on the connection is answered."""

    probes = True

    def grade(self, connection, stream):
        found = connection.streams.get(stream)
        if connection.closed or connection.goaways or (found is not None and found.reset is not None):
            return None
        return NARROW if getattr(connection, "probed", False) else None

    def __str__(self):
        return "ignored"


def connection_error(*codes):
    return ConnectionError_(codes)


def stream_error(*codes):
    # RFC 9113 §5.4.1: an endpoint may treat a stream error as a connection error.
    return Reset(codes) | ConnectionError_(codes, narrow=False)


def malformed():
    # RFC 9113 §8.1.1: a stream error PROTOCOL_ERROR, before which a server may send a response.
    return Reset((PROTOCOL_ERROR,)) | Status(400, 499) | ConnectionError_((PROTOCOL_ERROR,), narrow=False)


def refused():
    """Not served, in whatever way."""
    return Status(400, 599) | Reset(()) | ConnectionError_(range(1, 14), narrow=False)


def answered(status=200):
    return Status(status, status)


closed = Closed()
ignored = Ignored()
calm = connection_error(ENHANCE_YOUR_CALM)


async def judge(connection, outcome, stream, seconds):
    """Waits until the outcome is there or cannot come any more; ALLOWED or NARROW, or raises."""

    def grade():
        return outcome.grade(connection, stream)

    if outcome.probes:
        await connection.quiet()
        if not connection.goaways and not connection.closed and not grade():
            await probe(connection)

    def over():
        return stream in connection.streams and connection.streams[stream].over

    if outcome.prompt and grade() is None:
        # Behind two round trips there is little left to wait for, but the end that follows a GOAWAY.
        await connection.quiet()
        await connection.until(lambda: grade() is not None, seconds if connection.goaways else min(seconds, 1.0))
    else:
        await connection.until(lambda: grade() is not None or over(), seconds)
        if grade() is None:
            await connection.quiet()
            await connection.until(lambda: grade() is not None, seconds if connection.goaways else 0.3)
    found = grade()
    if found is None:
        raise Failed(connection.describe())
    # What is said to be of a stream leaves the others alone.
    if found == NARROW and not connection.closed and not await connection.ping():
        found = grade() or ALLOWED
    return found


async def probe(connection):
    """A request behind all that."""
    stream = connection.next_stream
    if stream > WINDOW_MAX:
        connection.probed = True
        return
    await connection.request(stream=stream)
    await connection.until(lambda: connection.streams[stream].over)
    connection.probed = connection.streams[stream].status == 200 and connection.streams[stream].ended
