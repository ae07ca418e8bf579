"""A server of Python's own http.server that reads bodies and says what it was asked: request id, method, target."""
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

host, port, log = sys.argv[1], int(sys.argv[2]), open(sys.argv[3], "a", buffering=1, encoding="latin-1")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def parse_request(self):
        whole = super().parse_request()
        request_id = self.headers.get("x-request-id", "-") if whole else "-"
        log.write(f"{request_id} {self.requestline}\n")
        return whole

    def answer(self):
        if self.headers.get("transfer-encoding"):
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
        else:
            self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"ok")

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def log_message(self, *_):
        pass


Handler.timeout = 10
ThreadingHTTPServer((host, port), Handler).serve_forever()
