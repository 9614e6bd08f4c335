// The errors that the runtime raises itself, and the forms in which errors are reported.
'use strict';

// fault makes an error of Lambda's own vocabulary. Where, if given, is the place in the function's code.
function fault(kind, message, where) {
  const error = new Error(message);
  const name = 'Runtime.' + kind;
  const frames = error.stack.slice(`Error: ${message}`.length);
  Object.defineProperty(error, 'name', { value: name, configurable: true, writable: true });
  error.stack = `${name}: ${message}${where ? `\n    at ${where}` : ''}${frames}`;
  return error;
}

// payload is what is posted for an error: {errorType, errorMessage, trace}.
function payload(error) {
  try {
    if (isError(error)) {
      return { errorType: error.name, errorMessage: error.message, trace: error.stack.split('\n') };
    }
    return { errorType: typeof error, errorMessage: error.toString(), trace: [] };
  } catch {
    return {
      errorType: 'handled',
      errorMessage:
        'callback called with Error argument, but there was a problem while retrieving one or more of its message, name, and stack',
    };
  }
}

// isError recognises errors of other realms and subclasses by their shape.
function isError(value) {
  if (value instanceof Error) return typeof value.stack === 'string';
  return Boolean(value) && ['name', 'message', 'stack'].every((key) => value[key] && typeof value[key] === 'string');
}

// asError makes sure that what was thrown can be logged as an error.
function asError(value) {
  return value instanceof Error ? value : new Error(value);
}

// formatted is an error as one line of text, with the members that JSON leaves out. It begins with a tab, as Lambda's does.
function formatted(error) {
  try {
    return '\t' + JSON.stringify(error, (_, value) => (value instanceof Error ? members(value) : value));
  } catch {
    return '\t' + JSON.stringify(payload(error));
  }
}

function members(error) {
  const all = { errorType: error.name, errorMessage: error.message, code: error.code, ...error };
  if (typeof error.stack === 'string') all.stack = error.stack.split('\n');
  return all;
}

module.exports = { asError, fault, formatted, payload };
