// A real OpenID provider for `openid.rs`: the npm package `oidc-provider`, with one client and a few resources.
//
//   node openid_provider.mjs NODE_MODULES [CERTIFICATE KEY]
//
// It listens on a port of 127.0.0.1 that the kernel chooses and prints its issuer: with TLS an `https` one that ends in a
// slash, as those of some providers do. Then it reads commands, one a line, and prints one line for each once it holds:
//
//   rotate   new keys sign from now on; the key set has the old ones behind them
//   retire   the key set has the newest keys only
//   hide     every request is answered 503 …
//   show     … until now
//
// It ends when its input does.

import { generateKeyPairSync, webcrypto } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

// What the package takes for granted and Node 18, which Debian 12 has, lacks.
globalThis.crypto ??= webcrypto;
globalThis.CryptoKey ??= webcrypto.CryptoKey;
URL.parse ??= (text, base) => {
  try {
    return new URL(text, base);
  } catch {
    return null;
  }
};
// Its notices would stand between our lines.
console.info = console.error;
const [modules, certificate, key] = process.argv.slice(2);
const entry = join(resolve(modules), 'oidc-provider', 'lib', 'index.js');
const { Provider } = await import(pathToFileURL(entry));

const BASE = { accessTokenFormat: 'jwt', audience: 'orders-api', scope: 'orders.read orders.write' };
const RESOURCES = {
  'urn:orders': { ...BASE, jwt: { sign: { alg: 'RS256' } } },
  'urn:orders:es256': { ...BASE, jwt: { sign: { alg: 'ES256' } } },
  'urn:orders:brief': { ...BASE, accessTokenTTL: 3, jwt: { sign: { alg: 'ES256' } } },
  'urn:orders:opaque': { ...BASE, accessTokenFormat: 'opaque' },
  'urn:billing': { ...BASE, audience: 'billing-api', jwt: { sign: { alg: 'RS256' } } },
};

// Exported as they are made: `export()` of a half of a pair can wait for itself when the other half is collected meanwhile.
const JWK = { publicKeyEncoding: { format: 'jwk' }, privateKeyEncoding: { format: 'jwk' } };
let generation = 0;
function freshKeys() {
  generation += 1;
  const rsa = generateKeyPairSync('rsa', { modulusLength: 2048, ...JWK }).privateKey;
  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256', ...JWK }).privateKey;
  return [
    { ...rsa, kid: `rsa-${generation}`, alg: 'RS256', use: 'sig' },
    { ...ec, kid: `ec-${generation}`, alg: 'ES256', use: 'sig' },
  ];
}

function provider(issuer, keys) {
  return new Provider(issuer, {
    clients: [
      {
        client_id: 'shop',
        client_secret: 'not-a-secret-of-anybody',
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
        token_endpoint_auth_method: 'client_secret_post',
        scope: 'orders.read orders.write',
      },
    ],
    // The first key that fits signs.
    jwks: { keys },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (_context, resource) => RESOURCES[resource],
      },
    },
    scopes: ['orders.read', 'orders.write'],
  });
}

let keys = freshKeys();
let hidden = false;
let callback;
function answer(request, response) {
  if (hidden) {
    response.writeHead(503).end();
  } else {
    callback(request, response);
  }
}
const server = certificate
  ? https.createServer({ cert: readFileSync(certificate), key: readFileSync(key) }, answer)
  : http.createServer(answer);
server.listen(0, '127.0.0.1', () => {
  const authority = `127.0.0.1:${server.address().port}`;
  const issuer = certificate ? `https://${authority}/` : `http://${authority}`;
  callback = provider(issuer, keys).callback();
  const commands = {
    rotate: () => { keys = [...freshKeys(), ...keys]; },
    retire: () => { keys = keys.slice(0, 2); },
    hide: () => { hidden = true; },
    show: () => { hidden = false; },
  };
  const input = createInterface({ input: process.stdin });
  input.on('line', (line) => {
    commands[line]();
    callback = provider(issuer, keys).callback();
    console.log(`done ${line}`);
  });
  input.on('close', () => process.exit(0));
  console.log(`issuer ${issuer}`);
});
