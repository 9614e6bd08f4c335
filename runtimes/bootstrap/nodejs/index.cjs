// The program of Lambent's Node.js runtimes. Its files end in .cjs because their directory is in NODE_PATH: a function that
// requires "errors" must not get the runtime's.
'use strict';

const { RuntimeAPI } = require('./api.cjs');
const { patchConsole } = require('./console.cjs');
const { Runtime } = require('./runtime.cjs');

patchConsole();
new Runtime(new RuntimeAPI(process.env.AWS_LAMBDA_RUNTIME_API)).run();
