// The program of Lambent's Node.js runtimes.
'use strict';

const { RuntimeAPI } = require('./api.js');
const { patchConsole } = require('./console.js');
const { Runtime } = require('./runtime.js');

patchConsole();
new Runtime(new RuntimeAPI(process.env.AWS_LAMBDA_RUNTIME_API)).run();
