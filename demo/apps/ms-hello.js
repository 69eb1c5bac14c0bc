// ms-hello: greets on port 7777, and calls ms-bye through its Service on request.
'use strict';
const http = require('http');
const { serve, body } = require('./server.js');

// Where ms-bye is: by its Service's name, or by the variables that were set when this pod started.
const address = (how) => {
  if (how === 'ENVVAR') {
    const host = process.env.MS_BYE_SVC_SERVICE_HOST;
    const port = process.env.MS_BYE_SVC_SERVICE_PORT;
    if (!host || !port) throw new Error('MS_BYE_SVC_SERVICE_HOST is not set: this pod is older than the Service ms-bye-svc');
    return { host, port };
  }
  if (how === 'DNS') return { host: 'ms-bye-svc', port: 19 };
  throw new Error('svcDiscovery is DNS or ENVVAR');
};

const post = ({ host, port }, path, message) =>
  new Promise((resolve, reject) => {
    const text = JSON.stringify(message);
    const headers = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) };
    const request = http.request({ host, port, path, method: 'POST', headers, timeout: 5000 }, (response) => {
      body(response).then((answer) => resolve(JSON.parse(answer))).catch(reject);
    });
    request.on('timeout', () => request.destroy(new Error(`no answer from ${host}:${port} within 5 s`)));
    request.on('error', reject);
    request.end(text);
  });

serve('ms-hello', 7777, {
  'GET /': async () => 'This is the hello world custom node parent',
  'GET /contactByeFromHello': async (_, url) =>
    post(address(url.searchParams.get('svcDiscovery') || 'DNS'), '/sayHelloToBye', { msgFromHelloToBye: 'Hello, bye!' }),
});
