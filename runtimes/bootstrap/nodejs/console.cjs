// The console as Lambda's Node.js runtimes have it: each line names its time, request and level, as text or as JSON.
'use strict';

const fs = require('fs');
const util = require('util');
const errors = require('./errors.cjs');

const LEVELS = ['TRACE', 'DEBUG', 'INFO', 'WARN', 'ERROR', 'FATAL'];
const state = { requestId: undefined, tenantId: undefined };

// patchConsole replaces the console's methods, by AWS_LAMBDA_LOG_FORMAT and AWS_LAMBDA_LOG_LEVEL.
function patchConsole() {
  const format = isJSON() ? formatJSON : formatText;
  const least = LEVELS.indexOf((process.env.AWS_LAMBDA_LOG_LEVEL || '').toUpperCase());
  const methods = { trace: 'TRACE', debug: 'DEBUG', info: 'INFO', log: 'INFO', warn: 'WARN', error: 'ERROR', fatal: 'FATAL' };
  for (const [method, level] of Object.entries(methods)) {
    const wanted = level === 'FATAL' || LEVELS.indexOf(level) >= least;
    console[method] = wanted ? (...values) => writeLine(format(level, values)) : () => {};
  }
}

// logError writes an error that ended an invoke or the process.
function logError(title, error) {
  if (isJSON()) {
    console.error(errors.asError(error));
  } else {
    console.error(title, errors.formatted(errors.asError(error)));
  }
}

function isJSON() {
  return (process.env.AWS_LAMBDA_LOG_FORMAT || '').toUpperCase() === 'JSON';
}

function formatText(level, values) {
  return `${new Date().toISOString()}\t${state.requestId}\t${level}\t${util.format(...values)}`;
}

function formatJSON(level, values) {
  const line = { timestamp: new Date().toISOString(), level, requestId: state.requestId, tenantId: state.tenantId };
  if (values.length <= 1) {
    line.message = values[0];
    try {
      return JSON.stringify(line, (_, value) => (value instanceof Error ? { ...describe(value), ...value } : value));
    } catch {
      line.message = util.format(values[0]);
      return JSON.stringify(line);
    }
  }
  line.message = util.format(...values);
  return JSON.stringify({ ...line, ...describe(values.find((value) => value instanceof Error)) });
}

function describe(error) {
  if (!error) return {};
  return {
    errorType: error.constructor ? error.constructor.name : 'UnknownError',
    errorMessage: error.message,
    stackTrace: typeof error.stack === 'string' ? error.stack.split('\n') : [],
  };
}

// writeLine writes one event of the log, before it returns. A line feed would begin another, so those inside become
// carriage returns.
function writeLine(line) {
  let bytes = Buffer.from(line.replace(/\n/g, '\r') + '\n');
  while (bytes.length > 0) {
    try {
      bytes = bytes.subarray(fs.writeSync(1, bytes));
    } catch (error) {
      if (error.code !== 'EAGAIN') return; // nobody reads the log any more
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1); // the function has made the pipe non-blocking
    }
  }
}

module.exports = { logError, patchConsole, state };
