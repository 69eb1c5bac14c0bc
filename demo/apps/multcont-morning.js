// multcont-morning: one of two containers in a pod; port 1234.
'use strict';
const { serve } = require('./server.js');

serve('multcont-morning', 1234, { 'GET /': async () => 'This is the good morning root' });
