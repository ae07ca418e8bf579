// A server of Node.js that answers at once and says what it was asked: request id, method, target.
import { appendFileSync } from "node:fs";
import { createServer } from "node:http";

const [host, port, log] = process.argv.slice(2);
const tell = (line) => appendFileSync(log, line + "\n");
const server = createServer((request, response) => {
  tell(`${request.headers["x-request-id"] ?? "-"} ${request.method} ${request.url}`);
  request.resume();
  response.end("ok");
});
server.on("clientError", (error, socket) => {
  // A request that was given up is none. One that is refused (a method that Node.js does not know) was seen all the same.
  if (error.code?.startsWith("HPE_") && error.code !== "HPE_INVALID_EOF_STATE") {
    const text = error.rawPacket?.toString("latin1") ?? "";
    const id = /^x-request-id: (\S+)/im.exec(text)?.[1] ?? "-";
    tell(`${id} ${text.split("\r\n")[0]} ${error.code}`);
  }
  socket.destroy();
});
server.listen(Number(port), host);
