// A server of HTTP/2 by Node.js, without TLS, that does what the last words of the path say. Ends with its input.
import { createServer } from "node:http2";

const acts = {
  echo(stream) {
    stream.respond({ ":status": 200 });
    stream.pipe(stream);
  },
  seen(stream, headers) {
    let bytes = 0;
    stream.on("data", (piece) => (bytes += piece.length));
    stream.on("end", () => {
      stream.respond({ ":status": 200, "content-type": "application/json" });
      stream.end(JSON.stringify({ bytes, ...headers }));
    });
  },
  size(stream, headers, bytes) {
    stream.respond({ ":status": 200, "content-length": bytes }, { endStream: headers[":method"] === "HEAD" });
    if (headers[":method"] !== "HEAD") stream.end(Buffer.alloc(bytes, "a"));
  },
  trailers(stream) {
    stream.respond({ ":status": 200 }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": "12" }));
    stream.end("with trailers");
  },
  hints(stream) {
    stream.additionalHeaders({ ":status": 103, link: "</style.css>; rel=preload" });
    stream.respond({ ":status": 200 });
    stream.end("hinted");
  },
  bare(stream, headers, status) {
    stream.respond({ ":status": status }, { endStream: true });
  },
  reset(stream) {
    stream.close(2);
  },
};

const server = createServer();
server.on("stream", (stream, headers) => {
  stream.on("error", () => {});
  const [, , act, number] = headers[":path"].split("/");
  acts[act](stream, headers, Number(number));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
