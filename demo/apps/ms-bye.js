// ms-bye: answers on port 9999; POST /sayHelloToBye gives the JSON body back with a greeting of its own.
'use strict';
const { serve, body } = require('./server.js');

serve('ms-bye', 9999, {
  'GET /': async () => 'This is the test bye with custom node parent image',
  'POST /sayHelloToBye': async (request) => ({ ...JSON.parse(await body(request)), msgFromByeToHello: 'Bye, hello!' }),
});
