// An origin of HTTP/2 by Node (nghttp2) that takes WebSockets (RFC 8441): every frame goes back as it came, unmasked.
//
//     node server.mjs HOST PORT
//
// It ends with its standard input.
import http2 from "node:http2";

const server = http2.createServer({ settings: { enableConnectProtocol: true } });

server.on("stream", (stream, headers) => {
  stream.on("error", () => {});
  if (headers[":method"] !== "CONNECT" || headers[":protocol"] !== "websocket") {
    stream.respond({ ":status": 405 }, { endStream: true });
    return;
  }
  stream.respond({ ":status": 200, "sec-websocket-protocol": headers["sec-websocket-protocol"]?.split(", ").at(-1) });
  let held = Buffer.alloc(0);
  stream.on("data", (piece) => {
    held = Buffer.concat([held, piece]);
    for (let frame; (frame = take()); ) {
      stream.write(frame);
      if ((frame[0] & 15) === 8) stream.end();
    }
  });
  stream.on("end", () => stream.end());

  // The first frame of what is held, as a server sends it.
  function take() {
    if (held.length < 2) return null;
    const short = held[1] & 127;
    const wide = short === 126 ? 2 : short === 127 ? 8 : 0;
    if (held.length < 2 + wide + 4) return null;
    const length = wide === 2 ? held.readUInt16BE(2) : wide === 8 ? Number(held.readBigUInt64BE(2)) : short;
    const start = 2 + wide + 4;
    if (held.length < start + length) return null;
    const frame = Buffer.concat([held.subarray(0, 2 + wide), held.subarray(start, start + length)]);
    frame[1] &= 127;
    const mask = held.subarray(start - 4, start);
    for (let at = 0; at < length; at++) frame[2 + wide + at] ^= mask[at & 3];
    held = held.subarray(start + length);
    return frame;
  }
});

server.listen(Number(process.argv[3]), process.argv[2], () => console.log("listens"));
process.stdin.on("end", () => process.exit()).resume();
