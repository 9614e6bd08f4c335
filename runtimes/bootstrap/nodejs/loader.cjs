// Finds the function that a handler's name means: directory/module.function, where the function may be nested with dots.
'use strict';

const fs = require('fs');
const path = require('path');
const { createRequire } = require('module');
const { pathToFileURL } = require('url');
const { fault } = require('./errors.cjs');

const STREAMING = Symbol.for('aws.lambda.runtime.handler.streaming');
const major = Number(process.versions.node.split('.')[0]);

// What a module's file may end in, in the order of Lambda's search, and how it is loaded.
const ENDINGS = [
  { ending: '', load: 'require' },
  { ending: '.js', load: 'byPackage' },
  { ending: '.mjs', load: 'import' },
  { ending: '.cjs', load: 'require' },
  ...(major >= 24
    ? [
        { ending: '.ts', load: 'byPackage' },
        { ending: '.mts', load: 'import' },
        { ending: '.cts', load: 'require' },
      ]
    : []),
];

// load returns the handler, or throws what is reported as the error of the initialisation.
async function load(root, name) {
  if (name.includes('..')) {
    throw fault(
      'MalformedHandlerName',
      `'${name}' is not a valid handler name. Use absolute paths when specifying root directories in handler names.`,
    );
  }
  const base = path.basename(name);
  const dot = base.indexOf('.');
  if (dot < 0) throw fault('MalformedHandlerName', 'Bad handler');
  defineGlobals();
  const app = await loadModule(root, name.slice(0, name.lastIndexOf(base)), base.slice(0, dot));
  const handler = base
    .slice(dot + 1)
    .split('.')
    .reduce((value, key) => value && value[key], app);
  if (!handler) throw fault('HandlerNotFound', `${name} is undefined or not exported`);
  if (typeof handler !== 'function') throw fault('HandlerNotFound', `${name} is not a function`);
  checkKind(name, handler);
  return handler;
}

function defineGlobals() {
  if (['1', 'true'].includes(process.env.AWS_LAMBDA_NODEJS_NO_GLOBAL_AWSLAMBDA)) return;
  globalThis.awslambda = {
    ...globalThis.awslambda,
    streamifyResponse: (handler) => Object.assign(handler, { [STREAMING]: 'response' }),
  };
}

function checkKind(name, handler) {
  if (handler[STREAMING]) {
    throw fault(
      'MalformedStreamingHandler',
      `${name} is made with awslambda.streamifyResponse: response streaming is not supported here. Export a function that returns its response.`,
    );
  }
  if (major >= 24 && handler.length >= 3) {
    throw fault(
      'CallbackHandlerDeprecated',
      `${name} takes a callback, which Node.js 24 and later do not support. Make it an async function that returns its response.`,
    );
  }
}

async function loadModule(root, directory, module) {
  try {
    const file = path.resolve(root, directory, module);
    for (const { ending, load } of ENDINGS) {
      if (!fs.existsSync(file + ending)) continue;
      const asModule = load === 'import' || (load === 'byPackage' && inModulePackage(path.dirname(file)));
      return asModule ? await import(pathToFileURL(file + ending)) : require(file + ending);
    }
    // Not a file: an installed package. The name of this file stands in the error's text, as it does on Lambda.
    const require_ = createRequire(path.join(__dirname, 'index.mjs'));
    return require(require_.resolve(module, { paths: [root, path.resolve(root, directory)] }));
  } catch (error) {
    if (error instanceof SyntaxError) throw fault('UserCodeSyntaxError', String(error), error.stack.split('\n')[0]);
    if (error && error.code === 'MODULE_NOT_FOUND') throw fault('ImportModuleError', String(error));
    throw error;
  }
}

// inModulePackage tells whether the nearest package.json says that .js files are ES modules.
function inModulePackage(directory) {
  for (let at = directory; !at.endsWith('/node_modules'); at = path.dirname(at)) {
    let text;
    try {
      text = fs.readFileSync(path.join(at, 'package.json'), 'utf8');
    } catch {
      if (at === path.dirname(at)) return false;
      continue;
    }
    try {
      return JSON.parse(text)?.type === 'module';
    } catch (error) {
      console.warn(`${path.join(at, 'package.json')} cannot be read, so .js files are taken as CommonJS.`, error);
      return false;
    }
  }
  return false;
}

module.exports = { load };
