// The life of a function's process: load the handler, then take events one by one until the process is killed.
'use strict';

const { RuntimeAPI } = require('./api.cjs');
const errors = require('./errors.cjs');
const { load } = require('./loader.cjs');
const log = require('./console.cjs');

class Runtime {
  constructor(api) {
    this.api = api;
    this.handler = null;
    this.errorPath = 'init/error'; // where an error that nobody caught is posted
    this.whenIdle = null; // what happens when the event loop has nothing left to do
  }

  async run() {
    process.on('uncaughtException', (error) => this.die('Uncaught Exception', error, 129));
    process.on('unhandledRejection', (reason, promise) => {
      const error = Object.assign(errors.fault('UnhandledPromiseRejection', String(reason)), { reason, promise });
      this.die('Unhandled Promise Rejection', error, 128);
    });
    process.on('beforeExit', () => {
      const act = this.whenIdle;
      this.whenIdle = null;
      if (act) act();
    });
    try {
      this.handler = await load(process.env.LAMBDA_TASK_ROOT || '/var/task', process.env._HANDLER || '');
    } catch (error) {
      this.die('Uncaught Exception', error, 129);
      return;
    }
    this.step();
  }

  // die reports an error that leaves the process in an unknown state, over a new connection: a request for the next event
  // may be pending on the other.
  die(title, error, status) {
    log.logError(title, error);
    this.dying = true; // what the handler answers from now on comes too late
    const exit = () => process.exit(status);
    new RuntimeAPI(process.env.AWS_LAMBDA_RUNTIME_API).fail(this.errorPath, errors.payload(error)).then(exit, exit);
  }

  step() {
    setImmediate(() =>
      this.takeEvent().catch((error) => {
        console.log(`Unexpected Top Level Error: ${error}`);
        process.exit(1); // the Runtime API is gone
      }),
    );
  }

  async takeEvent() {
    const { headers, body } = await this.api.next();
    this.api.release();
    const invoke = new Invoke(this, headers);
    log.state.requestId = invoke.id;
    log.state.tenantId = headers['lambda-runtime-aws-tenant-id'];
    this.errorPath = `invocation/${invoke.id}/error`;
    this.whenIdle = () => invoke.unsettled();
    const trace = headers['lambda-runtime-trace-id'];
    if (trace) process.env._X_AMZN_TRACE_ID = trace;
    else delete process.env._X_AMZN_TRACE_ID;
    try {
      const event = JSON.parse(body.toString());
      const result = this.handler(event, invoke.context(), invoke.callback);
      if (result && typeof result.then === 'function') {
        result.then(invoke.succeed, invoke.fail).catch(invoke.fail);
      }
    } catch (error) {
      invoke.callback(error);
    }
  }
}

// Invoke is one event and the ways in which a handler may answer it. The first answer counts.
class Invoke {
  constructor(runtime, headers) {
    this.runtime = runtime;
    this.headers = headers;
    this.id = headers['lambda-runtime-aws-request-id'];
    this.answered = false;
    this.waitForIdle = true;
    this.callback = this.first((error, result) => {
      if (error !== undefined && error !== null) this.reject(error);
      else if (this.waitForIdle) this.runtime.whenIdle = () => setImmediate(() => this.resolve(toJSON(result)));
      else this.resolve(toJSON(result));
    });
    this.done = this.first((error, result) => {
      if (error !== undefined && error !== null) this.reject(error);
      else this.resolve(toJSON(result));
    });
    this.succeed = (result) => this.done(null, result);
    this.fail = (error) => this.done(error === undefined || error === null ? 'handled' : error, null);
  }

  // first lets through the first call that does not throw.
  first(answer) {
    return (...values) => {
      if (this.answered || this.runtime.dying) return;
      answer(...values);
      this.answered = true;
    };
  }

  resolve(text) {
    this.runtime.whenIdle = null;
    this.settle(this.runtime.api.respond(this.id, text));
  }

  reject(error) {
    this.runtime.whenIdle = null;
    log.logError('Invoke Error', error);
    this.settle(this.runtime.api.fail(`invocation/${this.id}/error`, errors.payload(error)));
  }

  settle(posted) {
    posted.then(
      () => this.runtime.step(),
      (error) => {
        console.log(`Unexpected Top Level Error: ${error}`);
        process.exit(1);
      },
    );
  }

  // unsettled answers for a handler that left nothing to wait for and never answered: a mistake of an async function,
  // and what a function does that has nothing to say.
  unsettled() {
    if (this.answered || this.runtime.dying) return;
    this.answered = true;
    if (this.runtime.handler.constructor.name === 'AsyncFunction') {
      this.reject(
        errors.fault(
          'NodeJsExit',
          'The event loop is empty and the promise that the handler returned has not been settled: it never will be. See https://nodejs.org/docs/latest/api/process.html#exit-codes',
        ),
      );
    } else {
      this.resolve('null');
    }
  }

  context() {
    const { headers } = this;
    const deadline = Number(headers['lambda-runtime-deadline-ms']);
    const invoke = this;
    return {
      get callbackWaitsForEmptyEventLoop() {
        return invoke.waitForIdle;
      },
      set callbackWaitsForEmptyEventLoop(value) {
        invoke.waitForIdle = value;
      },
      succeed: this.succeed,
      fail: this.fail,
      done: this.done,
      functionVersion: process.env.AWS_LAMBDA_FUNCTION_VERSION,
      functionName: process.env.AWS_LAMBDA_FUNCTION_NAME,
      memoryLimitInMB: process.env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
      logGroupName: process.env.AWS_LAMBDA_LOG_GROUP_NAME,
      logStreamName: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
      clientContext: parseHeader(headers['lambda-runtime-client-context'], 'ClientContext'),
      identity: parseHeader(headers['lambda-runtime-cognito-identity'], 'CognitoIdentity'),
      invokedFunctionArn: headers['lambda-runtime-invoked-function-arn'],
      awsRequestId: this.id,
      tenantId: headers['lambda-runtime-aws-tenant-id'],
      getRemainingTimeInMillis: () => deadline - Date.now(),
    };
  }
}

function toJSON(value) {
  try {
    return JSON.stringify(value === undefined ? null : value) ?? 'null';
  } catch {
    throw new Error('Unable to stringify response body');
  }
}

function parseHeader(text, name) {
  if (text === undefined || text === '') return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`Cannot parse ${name} as json: ${error}`);
  }
}

module.exports = { Runtime };
