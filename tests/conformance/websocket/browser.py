"""Chromium before a node: a page that opens WebSockets and listens to events, over `wss` and `https`.

    browser.py --port PORT --origin ADDRESS:PORT

The page (`browser.html`) comes from the origin behind the node, and tells the origin what it saw, a JSON object a line here: `id`, `state`,
`came`. Each event is sent when the page has said that it has the one before: whoever waits for more than one waits for ever.
"""

import argparse
import asyncio
import json
import pathlib
import shutil
import sys
import tempfile

from websockets.utils import accept_key

from autobahn import Echo, End, Wire

PROGRAMS = ("chromium-headless-shell", "chromium", "google-chrome")
EVENTS = 5
SECONDS = 60
EXPECTED = {
    "echo": ["open", "text: ä€😀", "bytes: 0,255,1", "text of 70000", "close 4321 so long true"],
    "rate": ["open", "close 1008 websocket_rate true"],
    "size": ["open", "close 1009 websocket_message_size true"],
    "subprotocol": ["open as chat.v2", "close 1000  true"],
    "events": [f"event {number}" for number in range(1, EVENTS + 1)],
    "refused": ["close 1006  false"],
}


class Origin:
    def __init__(self):
        self.seen, self.report = {}, asyncio.get_running_loop().create_future()

    async def accept(self, reader, writer):
        try:
            while True:
                line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                fields = dict((name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in lines if line))
                path = line.split()[1]
                if "upgrade" in fields:
                    return await self.echo(reader, writer, fields)
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                if path.endswith("/events"):
                    return await self.events(writer)
                content, kind = b"", "text/plain"
                if path.endswith("/page"):
                    content, kind = pathlib.Path(__file__).with_name("browser.html").read_bytes(), "text/html; charset=utf-8"
                elif "/seen?" in path:
                    self.event(int(path.split("?")[1])).set()
                elif path.endswith("/report") and not self.report.done():
                    self.report.set_result(json.loads(body))
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def event(self, number):
        return self.seen.setdefault(number, asyncio.Event())

    async def events(self, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n")
        for number in range(1, EVENTS + 1):
            writer.write(b"data: %d\n\n" % number)
            await writer.drain()
            await self.event(number).wait()

    async def echo(self, reader, writer, fields):
        answer = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
                  f"Sec-WebSocket-Accept: {accept_key(fields['sec-websocket-key'])}"]
        if "chat.v2" in fields.get("sec-websocket-protocol", ""):
            answer.append("Sec-WebSocket-Protocol: chat.v2")
        writer.write("\r\n".join([*answer, "", ""]).encode())
        end = End(Wire(reader, writer), False, [])
        await end.read(Echo(end).see)


async def run(arguments):
    program = next(filter(shutil.which, PROGRAMS), None)
    if program is None:
        print(json.dumps({"id": "chromium", "state": "left out", "came": "Chromium is not installed"}))
        return
    origin = Origin()
    host, port = arguments.origin.rsplit(":", 1)
    server = await asyncio.start_server(origin.accept, host, int(port), limit=1 << 20)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        complaints = pathlib.Path(folder, "complaints")
        browser = await asyncio.create_subprocess_exec(
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--ignore-certificate-errors",
            f"--user-data-dir={folder}", "--remote-debugging-port=0", f"https://localhost:{arguments.port}/plain/page",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=complaints.open("wb"))
        try:
            found = await asyncio.wait_for(origin.report, SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            found = {}
        browser.terminate()
        await browser.wait()
        if not found:
            print(complaints.read_text(errors="replace")[-2_000:], file=sys.stderr)
    server.close()
    for name, expected in EXPECTED.items():
        came = found.get(name)
        print(json.dumps({"id": name, "state": "passed" if came == expected else "failed", "came": came}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--origin", required=True)
    asyncio.run(run(parser.parse_args()))
