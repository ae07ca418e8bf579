"""Clients that other people wrote against an HTTP/2 server with the recording origin behind it.

    python3 tests/conformance/h2/clients.py --port 8443 --tls --origin 127.0.0.1:9000 [--client NAME] [--json]

curl, nghttp, h2load, Node, httpx and Chromium, as far as they are installed. Each is held to what it can show: GET, HEAD, an
echo of 1 MiB, 404, trailers, 103, a response before the request has ended, many requests at once.
"""

import argparse
import asyncio
import hashlib
import json
import pathlib
import re
import shutil
import sys
import tempfile
import time

sys.dont_write_bytecode = True

from connection import Failed, NotApplicable
from origin import Origin
from table import demand

HERE = pathlib.Path(__file__).parent
BODY = (b"ringwall " * (1 << 17))[: 1 << 20]
DIGEST = hashlib.sha256(BODY).hexdigest()
CASES = []


def case(client, task, expects):
    def keep(run):
        CASES.append((client, task, expects, run))
        return run
    return keep


class Place:
    """The server, the origin behind it, and a folder for files."""

    def __init__(self, arguments, origin, folder):
        scheme = "https" if arguments.tls else "http"
        self.tls, self.origin, self.folder = arguments.tls, origin, folder
        self.base = f"{scheme}://{arguments.name}:{arguments.port}"
        self.body = folder / "body"
        self.body.write_bytes(BODY)
        self.told = {}

    def url(self, path):
        return self.base + path


async def tell(program, *arguments, seconds=30):
    """What a program says, and how it ends."""
    if not shutil.which(program):
        raise NotApplicable(f"{program} is not installed")
    process = await asyncio.create_subprocess_exec(
        program, *map(str, arguments), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE)
    try:
        output, errors = await asyncio.wait_for(process.communicate(), seconds)
    except (TimeoutError, asyncio.TimeoutError):
        process.kill()
        await process.wait()
        raise Failed(f"{program} does not end")
    return output, errors.decode(errors="replace"), process.returncode


# ---- curl


async def curl(place, path, *arguments):
    """Statuses, head and body of the last response."""
    head = place.folder / f"head{time.monotonic_ns()}"
    version = "--http2" if place.tls else "--http2-prior-knowledge"
    body, errors, code = await tell(
        "curl", "-sSk", version, "--max-time", "20", "-D", head, "-w", "%{stderr}%{http_version}", *arguments, place.url(path))
    demand(errors.strip().splitlines()[-1:] == ["2"] or errors.endswith("2"), f"curl: {errors} ({code})")
    text = head.read_text(errors="replace")
    return [int(status) for status in re.findall(r"^HTTP/2 (\d+)", text, re.M)], text.lower(), body, code


@case("curl", "get", "200 and the body")
async def _(place):
    statuses, _, body, _ = await curl(place, "/ok")
    demand((statuses, body) == ([200], b"ok\n"), repr((statuses, body)))


@case("curl", "head", "200, content-length and nothing behind it")
async def _(place):
    statuses, head, body, code = await curl(place, "/size/1000", "--head")
    demand(statuses == [200] and "content-length: 1000" in head and code == 0, head)


@case("curl", "echo", "1 MiB as it was")
async def _(place):
    statuses, _, body, _ = await curl(place, "/echo", "--data-binary", f"@{place.body}")
    demand(statuses[-1] == 200 and body == BODY, f"{statuses}, {len(body)} bytes")


@case("curl", "response_trailers", "the trailers")
async def _(place):
    statuses, head, body, _ = await curl(place, "/trailers", "-H", "TE: trailers")
    demand("x-sum: 12" in head and body == b"with trailers", head)


@case("curl", "missing", "404")
async def _(place):
    statuses, *_ = await curl(place, "/missing")
    demand(statuses == [404], repr(statuses))


@case("curl", "hints", "103, then 200")
async def _(place):
    statuses, *_ = await curl(place, "/early-hints")
    demand(statuses == [103, 200], repr(statuses))


@case("curl", "early", "413 in the middle of 1 MiB")
async def _(place):
    statuses, _, body, _ = await curl(place, "/enough", "--data-binary", f"@{place.body}")
    demand(statuses[-1:] == [413] and body == b"enough", repr((statuses, body)))


@case("curl", "many", "50 responses over one connection")
async def _(place):
    if not place.tls:
        # Of a second request with prior knowledge, in line or beside the first, it says "Error in the HTTP2 framing layer",
        # whoever the server is.
        raise NotApplicable("curl 7.88 uses a connection twice over TLS only")
    urls = [word for at in range(50) for word in (place.url(f"/size/{at}"), "-o", "/dev/null")]
    output, errors, code = await tell("curl", "-sSk", "--http2", "--parallel", "-w", "%{http_code} %{http_version}\n", *urls)
    demand(code == 0 and output.decode().split("\n")[:50] == ["200 2"] * 50, f"{code} {errors[-300:]} {output[:200]}")


# ---- nghttp and h2load


async def nghttp(place, path, *arguments):
    output, errors, code = await tell("nghttp", "-v", "--no-verify-peer", "-t", "20", *arguments, place.url(path))
    text = re.sub(r"\x1b\[[0-9;]*m", "", output.decode(errors="replace"))
    received = [int(status) for status in re.findall(r"recv \(stream_id=\d+\) :status: (\d+)", text)]
    return received, text, code


@case("nghttp", "get", "200")
async def _(place):
    statuses, text, _ = await nghttp(place, "/ok")
    demand(statuses == [200], text[-500:])


@case("nghttp", "head", "200 without DATA")
async def _(place):
    statuses, text, _ = await nghttp(place, "/size/1000", "-H:method: HEAD")
    demand(statuses == [200] and "content-length: 1000" in text and "recv DATA frame <length=1" not in text, text[-500:])


@case("nghttp", "echo", "1 MiB as it was")
async def _(place):
    output, errors, code = await tell("nghttp", "--no-verify-peer", "-t", "20", "-d", place.body, place.url("/echo"))
    demand(output == BODY, f"{len(output)} bytes, {errors}")


@case("nghttp", "padded", "1 MiB as it was, with padding of 100 bytes a frame")
async def _(place):
    output, errors, code = await tell("nghttp", "--no-verify-peer", "-t", "20", "-b", "100", "-d", place.body, place.url("/echo"))
    demand(output == BODY, f"{len(output)} bytes, {errors}")


@case("nghttp", "small_windows", "100,000 bytes through a window of 2^9")
async def _(place):
    output, errors, code = await tell("nghttp", "--no-verify-peer", "-t", "20", "-w", "9", place.url("/size/100000"))
    demand(len(output) == 100_000, f"{len(output)} bytes, {errors}")


@case("nghttp", "request_trailers", "the origin sees the body, and no trailer")
async def _(place):
    output, *_ = await tell(
        "nghttp", "--no-verify-peer", "-t", "20", "-d", place.body, "--trailer", "x-trailer: 1", place.url("/seen"))
    seen = json.loads(output)
    demand(seen["trailers"] == [] and seen["digest"] == DIGEST, repr(seen))


@case("nghttp", "response_trailers", "the trailers")
async def _(place):
    statuses, text, _ = await nghttp(place, "/trailers", "-H", "te: trailers")
    demand("x-sum: 12" in text, text[-500:])


@case("nghttp", "missing", "404")
async def _(place):
    statuses, *_ = await nghttp(place, "/missing")
    demand(statuses == [404], repr(statuses))


@case("nghttp", "early", "413")
async def _(place):
    statuses, text, _ = await nghttp(place, "/enough", "-d", place.body)
    demand(statuses[-1:] == [413], text[-500:])


@case("nghttp", "continue", "100, then 200")
async def _(place):
    statuses, text, _ = await nghttp(place, "/continue", "-d", place.body, "--expect-continue")
    demand(statuses == [100, 200], repr(statuses) + text[-300:])


@case("h2load", "get", "2,000 requests, 10 at once on 4 connections, all 200")
async def _(place):
    output, errors, code = await tell("h2load", "-n", "2000", "-c", "4", "-m", "10", place.url("/ok"))
    demand(b"2000 succeeded, 0 failed, 0 errored" in output and b"status codes: 2000 2xx" in output, output.decode()[-600:])


@case("h2load", "echo", "50 bodies of 1 MiB")
async def _(place):
    output, *_ = await tell("h2load", "-n", "50", "-c", "2", "-m", "5", "-d", place.body, place.url("/echo"), seconds=60)
    demand(b"50 succeeded, 0 failed, 0 errored" in output, output.decode()[-600:])


# ---- Node


async def node(place, task):
    if "node" not in place.told:
        place.told["node"] = {}
        output, errors, _ = await tell("node", HERE / "clients.mjs", place.base, seconds=60)
        place.told["node"] = {line["task"]: line for line in map(json.loads, output.decode().splitlines())}
    found = place.told["node"].get(task)
    demand(found, f"nothing was said of {task}: {place.told['node'].get('session')}")
    return found


def no_trailers(seen):
    return seen["body_bytes"] == 4 and seen["trailers"] == []


NODE = {
    "get": ("200", lambda found: found["status"] == 200 and found["text"] == "ok\n"),
    "head": ("200, content-length 1000, no body", lambda found: found["status"] == 200 and found["length"] == "1000" and not found["bytes"]),
    "echo": ("1 MiB as it was", lambda found: found["status"] == 200 and found["digest"] == DIGEST),
    "response_trailers": ("the trailers", lambda found: found.get("trailers", {}).get("x-sum") == "12"),
    "request_trailers": ("the origin sees the body, and no trailer", lambda found: no_trailers(json.loads(found["text"]))),
    "missing": ("404", lambda found: found["status"] == 404),
    "hints": ("103, then 200", lambda found: found["informational"] == [103] and found["status"] == 200),
    "early": ("413 in the middle of 1 MiB", lambda found: found["status"] == 413 and found["text"] == "enough"),
    "many": ("100 at once, each its own", lambda found: found["status"] == 200),
}
for task, (expects, holds) in NODE.items():
    @case("node", task, expects)
    async def _(place, task=task, holds=holds):
        found = await node(place, task)
        demand(holds(found), repr(found)[:400])


# ---- httpx


async def httpx_client(place):
    try:
        import httpx
        import h2  # noqa: F401
    except ImportError:
        raise NotApplicable("httpx[http2] is not installed")
    return httpx.AsyncClient(http2=True, http1=place.tls, verify=False, timeout=20, base_url=place.base)


def with_httpx(task, expects):
    def keep(run):
        @case("httpx", task, expects)
        async def _(place):
            async with await httpx_client(place) as client:
                found = await run(client)
                if found is not None:
                    demand(found.http_version == "HTTP/2", found.http_version)
        return run
    return keep


@with_httpx("get", "200")
async def _(client):
    found = await client.get("/ok")
    demand((found.status_code, found.content) == (200, b"ok\n"), repr(found))
    return found


@with_httpx("head", "200, content-length 1000, no body")
async def _(client):
    found = await client.head("/size/1000")
    demand(found.status_code == 200 and found.headers["content-length"] == "1000" and not found.content, repr(found))
    return found


@with_httpx("echo", "1 MiB as it was")
async def _(client):
    found = await client.post("/echo", content=BODY)
    demand(found.content == BODY, f"{len(found.content)} bytes")
    return found


@with_httpx("missing", "404")
async def _(client):
    found = await client.get("/missing")
    demand(found.status_code == 404, repr(found))
    return found


@with_httpx("many", "100 at once, each its own")
async def _(client):
    many = await asyncio.gather(*(client.get(f"/size/{at * 100}") for at in range(100)))
    demand(all(len(found.content) == at * 100 for at, found in enumerate(many)), "another body")
    return many[0]


# ---- Chromium


async def chromium(place, task):
    if not place.tls:
        raise NotApplicable("Chromium speaks HTTP/2 over TLS only")
    if "chromium" not in place.told:
        place.told["chromium"] = {}
        program = next(filter(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome")), "chromium")
        output, errors, _ = await tell(
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--ignore-certificate-errors",
            f"--user-data-dir={place.folder / 'chromium'}", "--virtual-time-budget=15000", "--dump-dom", place.url("/page"), seconds=60)
        found = re.search(rb'<pre id="found">(.*?)</pre>', output, re.S)
        demand(found and found.group(1).strip(), f"no result: {output[-300:]} {errors[-300:]}")
        place.told["chromium"] = json.loads(found.group(1).replace(b"&lt;", b"<").replace(b"&gt;", b">").replace(b"&amp;", b"&"))
    found = place.told["chromium"].get(task)
    demand(found == "as expected", repr(found))


for task, expects in [
    ("protocol", "the page came over h2"), ("get", "200"), ("head", "200, content-length 1000"), ("echo", "1 MiB as it was"),
    ("missing", "404"), ("many", "100 at once, each its own"), ("early", "413 in the middle of 1 MiB"), ("abort", "an aborted fetch, then a right one"),
]:
    @case("chromium", task, expects)
    async def _(place, task=task):
        await chromium(place, task)


# ---- running them


async def run(arguments):
    origin = Origin()
    host, port = arguments.origin.rsplit(":", 1)
    await origin.start(host, int(port))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        place = Place(arguments, origin, pathlib.Path(folder))

        async def all_of(client):
            for name, task, expects, attempt in CASES:
                if name != client:
                    continue
                begun = time.monotonic()
                state, came = "passed", ""
                try:
                    await attempt(place)
                except NotApplicable as why:
                    state, came = "left out", str(why)
                except Failed as error:
                    state, came = "failed", str(error)
                except Exception as error:
                    state, came = "failed", repr(error)
                results.append({
                    "id": f"{client}.{task}", "expected": expects, "came": came, "state": state,
                    "seconds": round(time.monotonic() - begun, 3)})

        chosen = arguments.client or list(dict.fromkeys(name for name, *_ in CASES))
        await asyncio.gather(*map(all_of, chosen))
    for record in origin.records:
        if record.wrong:
            results.append({"id": "origin", "expected": "right requests only", "state": "failed", "seconds": 0,
                            "came": f"{record.wrong}: {record.head!r}"})
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--name", default="localhost", help="the server's name, which must lead to it")
    parser.add_argument("--origin", metavar="HOST:PORT", required=True)
    parser.add_argument("--client", action="append")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    begun = time.monotonic()
    results = asyncio.run(run(arguments))
    for result in results:
        if arguments.json:
            print(json.dumps(result))
        else:
            print(f"{result['state']:8} {result['id']}" + ("" if result["state"] == "passed" else f": {result['came']}"))
    count = lambda state: sum(result["state"] == state for result in results)
    summary = {"passed": count("passed"), "failed": count("failed"), "left_out": count("left out"),
               "seconds": round(time.monotonic() - begun, 1)}
    print(json.dumps(summary) if arguments.json else f"{summary['passed']} passed, {summary['failed']} failed, "
          f"{summary['left_out']} left out, {summary['seconds']} s")
    return 1 if summary["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
