// multcont-afternoon: one of two containers in a pod; port 4321.
'use strict';
const { serve } = require('./server.js');

serve('multcont-afternoon', 4321, { 'GET /': async () => 'This is the good afternoon root' });
