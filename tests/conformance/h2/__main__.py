"""The HTTP/2 conformance and abuse suite: `python3 tests/conformance/h2 --port 8443 --tls`; README.md beside this file."""

import argparse
import asyncio
import importlib
import json
import os
import signal
import sys
import time

sys.dont_write_bytecode = True

from connection import Connection, Failed, NotApplicable, Target, new_token
from origin import Origin
from table import CASES, NARROW, Outcome, judge

for name in ("frames", "hpack", "messages", "exchange", "abuse"):
    importlib.import_module("cases_" + name)


class Result:
    def __init__(self, case):
        self.case = case
        self.token = new_token()
        self.state = None  # passed, failed or left out
        self.narrow = False
        self.came = ""
        self.seconds = 0.0

    def fail(self, why):
        self.state, self.came = "failed", f"{self.came}; {why}" if self.came else why

    @property
    def expected(self):
        return self.case.expects or str(self.case.allowed)

    def record(self):
        case = self.case
        return {
            "id": case.id, "section": case.section, "law": case.law, "sent": case.sends, "expected": self.expected,
            "came": self.came, "state": self.state, "narrow": self.narrow, "seconds": round(self.seconds, 3),
        }


async def run_case(result, target):
    case = result.case
    begun = time.monotonic()
    connection = Connection(target, result.token)
    try:
        await asyncio.wait_for(attempt(case, connection, result), case.seconds + 25)
    except NotApplicable as why:
        result.state, result.came = "left out", str(why)
    except Failed as error:
        result.fail(str(error))
    except (OSError, asyncio.TimeoutError, TimeoutError) as error:
        result.fail(f"{error!r}; {connection.describe()}")
    except Exception as error:
        result.fail(f"the case itself: {error!r}")
    finally:
        if result.state != "left out":
            for each in [connection] + connection.others:
                for law in each.broken_laws:
                    result.fail("broken law: " + law)
        await connection.end()
        result.seconds = time.monotonic() - begun


async def attempt(case, connection, result):
    await connection.connect()
    if case.handshake:
        await connection.handshake(case.settings)
    outcome = await case.run(connection)
    if not isinstance(outcome, Outcome):
        outcome = case.allowed
    grade = await judge(connection, outcome, case.stream, case.seconds) if outcome else NARROW
    result.came = connection.describe()
    result.narrow = grade == NARROW
    result.state = "passed"


def judge_origin(result, origin):
    """What may have reached the origin; asked at the end, when nothing is on its way any more."""
    if result.state == "left out":
        return
    records = origin.of(result.token)
    whole = [record for record in records if record.whole]
    for record in records:
        if record.wrong:
            result.fail(f"the origin saw what is no request: {record.wrong}")
        elif b"/smuggled" in record.target:
            result.fail(f"the origin saw a smuggled request: {record.head!r}")
    if result.case.origin == "nothing" and whole:
        result.fail(f"a request reached the origin: {whole[0].head!r}")
    elif result.case.origin == "one" and result.state == "passed" and len(whole) != 1:
        result.fail(f"{len(whole)} requests reached the origin")


async def run(arguments):
    origin = None
    if arguments.origin:
        origin = Origin()
        host, port = arguments.origin.rsplit(":", 1)
        await origin.start(host, int(port))
    drain = None
    if arguments.drain:
        pid, _, name = arguments.drain.partition(":")
        drain = lambda: os.kill(int(pid), getattr(signal, "SIG" + (name or "TERM")))
    target = Target(arguments.host, arguments.port, arguments.tls, arguments.authority, arguments.path, origin, drain)

    transport = "tls" if arguments.tls else "clear"
    chosen = [
        Result(case) for case in CASES.values()
        if case.transport in ("both", transport)
        and (not arguments.filter or any(word in case.id for word in arguments.filter))
    ]
    gate = asyncio.Semaphore(arguments.at_once)

    async def guarded(result):
        async with gate:
            await run_case(result, target)

    # The longest first.
    together = sorted((result for result in chosen if not result.case.alone), key=lambda result: -result.case.seconds)
    await asyncio.gather(*map(guarded, together))
    # Abuse three at a time, and the end of the server last of all.
    gate = asyncio.Semaphore(3)
    *abuse, last = [result for result in chosen if result.case.alone] or [None]
    await asyncio.gather(*map(guarded, abuse))
    if last:
        await run_case(last, target)
    if origin:
        for result in chosen:
            judge_origin(result, origin)
    strangers = [] if not origin else [
        record for record in origin.records
        if (record.wrong or b"/smuggled" in record.target) and not any(result.token.encode() in record.head for result in chosen)
    ]
    return chosen, strangers


def main():
    parser = argparse.ArgumentParser(prog="h2", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=False)
    parser.add_argument("--tls", action="store_true", help="h2 by ALPN; without it, cleartext with prior knowledge")
    parser.add_argument("--authority", help="what :authority says and whose certificate is asked for; HOST:PORT unless given")
    parser.add_argument("--origin", metavar="HOST:PORT", help="where to run the recording origin that the server forwards to")
    parser.add_argument("--path", default="/", help="a path that answers 200 where there is no origin")
    parser.add_argument("--drain", metavar="PID[:SIGNAL]", help="what tells the server to end in good order; comes last")
    parser.add_argument("--filter", action="append", help="only cases whose id contains this; may be given again")
    parser.add_argument("--narrow", action="store_true", help="what is merely allowed fails too")
    parser.add_argument("--at-once", type=int, default=24, metavar="CASES")
    parser.add_argument("--json", action="store_true", help="one JSON object a case")
    parser.add_argument("--list", action="store_true", help="show the table of cases and end")
    arguments = parser.parse_args()

    if arguments.list:
        for case in CASES.values():
            print(f"{case.id:40} {case.law:8} {case.section:28} {case.sends} -> {case.expects or case.allowed}")
        print(len(CASES), "cases")
        return 0
    if not arguments.port:
        parser.error("--port is required")

    begun = time.monotonic()
    results, strangers = asyncio.run(run(arguments))
    failed = 0
    for result in results:
        if arguments.narrow and result.state == "passed" and not result.narrow:
            result.fail("allowed, but not in the narrow sense")
        failed += result.state == "failed"
        if arguments.json:
            print(json.dumps(result.record()))
            continue
        case = result.case
        print(f"{result.state:8} {case.id}" + ("" if result.narrow or result.state != "passed" else " (merely allowed)"))
        if result.state != "passed":
            print(f"         {case.section}: {case.sends}\n         expected: {result.expected}\n         came:     {result.came}")
    for record in strangers:
        failed += 1
        line = f"the origin saw what no case sent: {record.wrong}: {record.head!r}"
        print(json.dumps({"id": "origin", "state": "failed", "came": line}) if arguments.json else "failed   " + line)
    passed = sum(result.state == "passed" for result in results)
    narrow = sum(result.narrow and result.state == "passed" for result in results)
    out = sum(result.state == "left out" for result in results)
    summary = {"passed": passed, "narrow": narrow, "failed": failed, "left_out": out, "seconds": round(time.monotonic() - begun, 1)}
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(f"{passed} passed ({narrow} in the narrow sense), {failed} failed, {out} left out, {summary['seconds']} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
