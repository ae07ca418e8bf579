// What Node's HTTP/2 client makes of a server: one JSON line a task. node clients.mjs URL
import http2 from 'node:http2';
import { createHash } from 'node:crypto';

const url = process.argv[2];
const session = http2.connect(url, { rejectUnauthorized: false });
session.on('error', (error) => say('session', { error: String(error) }));

function say(task, found) {
  console.log(JSON.stringify({ task, ...found }));
}

function exchange(fields, body, options = {}) {
  return new Promise((resolve) => {
    const stream = session.request(fields, { endStream: body === undefined, ...options });
    const found = { body: [], informational: [] };
    stream.setTimeout(8000, () => stream.close(http2.constants.NGHTTP2_CANCEL));
    stream.on('headers', (head) => found.informational.push(head[':status']));
    stream.on('response', (head) => Object.assign(found, { status: head[':status'], length: head['content-length'] }));
    stream.on('trailers', (trailers) => (found.trailers = { ...trailers }));
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-trailer': '1' }));
    stream.on('data', (piece) => found.body.push(piece));
    stream.on('error', (error) => (found.error = String(error)));
    stream.on('close', () => {
      const whole = Buffer.concat(found.body);
      resolve({
        ...found, body: undefined, bytes: whole.length, digest: createHash('sha256').update(whole).digest('hex'),
        text: whole.length < 4000 ? whole.toString() : undefined, code: stream.rstCode,
      });
    });
    if (body !== undefined) stream.end(body);
  });
}

const mebibyte = Buffer.alloc(1 << 20, 'ringwall ');
session.on('connect', async () => {
  say('get', await exchange({ ':path': '/ok' }));
  say('head', await exchange({ ':path': '/size/1000', ':method': 'HEAD' }));
  say('echo', await exchange({ ':path': '/echo', ':method': 'POST' }, mebibyte));
  say('response_trailers', await exchange({ ':path': '/trailers', te: 'trailers' }));
  say('request_trailers', await exchange({ ':path': '/seen', ':method': 'POST' }, Buffer.from('body'), { waitForTrailers: true }));
  say('missing', await exchange({ ':path': '/missing' }));
  say('hints', await exchange({ ':path': '/early-hints' }));
  say('early', await exchange({ ':path': '/enough', ':method': 'POST' }, mebibyte));
  const many = await Promise.all(Array.from({ length: 100 }, (_, at) => exchange({ ':path': `/size/${at * 100}` })));
  say('many', { status: many.every((found, at) => found.status === 200 && found.bytes === at * 100) ? 200 : 0 });
  session.close();
});
