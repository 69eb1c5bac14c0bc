// What the four sample applications have in common: a tiny HTTP server that logs one line per request.
'use strict';
const http = require('http');

// routes: { 'GET /path': async (request, url) => text or object }
exports.serve = (name, port, routes) => {
  const server = http.createServer(async (request, response) => {
    const url = new URL(request.url, `http://${request.headers.host || 'localhost'}`);
    const client = request.socket.remoteAddress.replace(/^::ffff:/, '');
    console.log(`${new Date().toISOString()} ${name} ${request.method} ${url.pathname}${url.search} from ${client}`);
    const route = routes[`${request.method} ${url.pathname}`];
    try {
      if (!route) return reply(response, 404, `no such page: ${request.method} ${url.pathname}\n`);
      reply(response, 200, await route(request, url));
    } catch (error) {
      console.error(`${name}: ${error.stack}`);
      reply(response, 502, `${name}: ${error.message}\n`);
    }
  });
  // On SIGTERM: take no new connection, finish what was begun, then end.
  process.on('SIGTERM', () => {
    console.log(`${name} is ending`);
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });
  server.listen(port, () => console.log(`${name} listens on port ${port}`));
};

const reply = (response, status, body) => {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  const type = typeof body === 'string' ? 'text/html' : 'application/json';
  response.writeHead(status, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(text) });
  response.end(text);
};

// The whole body of a request as text, at most 1 MiB of it.
exports.body = async (request) => {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > 1 << 20) throw new Error('the body is larger than 1 MiB');
    parts.push(part);
  }
  return Buffer.concat(parts).toString();
};
