// A keep-alive connection to the Runtime API. It speaks just enough HTTP/1.1 by itself: Node's own client costs more than
// all the rest of a warm invoke.
'use strict';

const net = require('net');

const PREFIX = '/2018-06-01/runtime/';
const NEXT = Buffer.from('GET ' + PREFIX + 'invocation/next HTTP/1.1\r\nHost: lambda\r\n\r\n');
const HEAD_END = Buffer.from('\r\n\r\n');

// Responses up to this size go out in one write together with the request for the next event, which saves a wake-up.
const ONE_WRITE = 256 << 10;

class RuntimeAPI {
  constructor(address) {
    const colon = address.lastIndexOf(':');
    this.options = { host: address.slice(0, colon), port: Number(address.slice(colon + 1)), noDelay: true };
    this.socket = null;
    this.waiting = []; // one per request that is not answered yet: {resolve, reject}
    this.asked = null; // the promise of the next event, when it was asked for along with a response
    this.rest = Buffer.alloc(0);
    this.message = null; // the answer that is being received: {status, headers, body, filled}
  }

  // next waits for the next event. While it waits, the connection keeps the process alive.
  async next() {
    const asked = this.asked;
    this.asked = null;
    let answer;
    if (asked) {
      answer = await asked.catch(() => null);
    }
    // Asked again where the connection was closed after the response: then the first question was not read.
    answer = answer || (await this.exchange(NEXT));
    if (answer.status !== 200) {
      throw new Error(`Runtime API: next: status ${answer.status}: ${answer.body.toString('utf8', 0, 200)}`);
    }
    return answer;
  }

  // respond posts a response, given as JSON. The Runtime API tells the function's caller when it is too large.
  async respond(id, text) {
    const body = Buffer.from(text);
    const head = headOf(`invocation/${id}/response`, body, '');
    let answer;
    if (body.length <= ONE_WRITE) {
      const answered = this.expect();
      this.asked = this.expect();
      this.asked.catch(() => {}); // next looks at it
      this.write(Buffer.concat([head, body, NEXT]));
      answer = await answered.catch(() => null);
    } else {
      answer = await this.exchange(head, body);
    }
    if (answer && answer.status >= 500) {
      throw new Error(`Runtime API: response: status ${answer.status}: ${answer.body}`);
    }
  }

  // fail posts an error of the initialisation or of an invoke.
  fail(path, error) {
    const body = Buffer.from(JSON.stringify(error));
    const kind = String(error.errorType).replace(/[^ -~]/g, '');
    return this.exchange(headOf(path, body, `Lambda-Runtime-Function-Error-Type: ${kind}\r\n`), body);
  }

  // release lets the process end, or rather its event loop come to rest, although the connection is open.
  release() {
    if (this.socket) this.socket.unref();
  }

  exchange(...parts) {
    const answer = this.expect();
    for (const part of parts) this.write(part);
    return answer;
  }

  expect() {
    return new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
  }

  write(bytes) {
    if (!this.socket) this.connect();
    this.socket.ref();
    this.socket.write(bytes);
  }

  connect() {
    this.rest = Buffer.alloc(0);
    this.message = null;
    const socket = net.connect({
      ...this.options,
      onread: {
        buffer: Buffer.allocUnsafeSlow(64 << 10),
        callback: (count, buffer) => {
          this.receive(buffer.subarray(0, count));
          return true;
        },
      },
    });
    let reason = new Error('the Runtime API closed the connection');
    socket.on('error', (error) => (reason = error));
    socket.on('end', () => socket.destroy());
    socket.on('close', () => {
      if (this.socket === socket) this.socket = null;
      const lost = this.waiting;
      this.waiting = [];
      for (const { reject } of lost) reject(reason);
    });
    this.socket = socket;
  }

  // receive takes bytes that are overwritten when it returns.
  receive(bytes) {
    while (bytes.length > 0) {
      if (!this.message) {
        const data = this.rest.length ? Buffer.concat([this.rest, bytes]) : bytes;
        const end = data.indexOf(HEAD_END);
        if (end < 0) {
          this.rest = Buffer.from(data);
          return;
        }
        this.rest = Buffer.alloc(0);
        this.message = parseHead(data.toString('utf8', 0, end));
        bytes = data.subarray(end + HEAD_END.length);
      }
      const message = this.message;
      const count = Math.min(bytes.length, message.body.length - message.filled);
      bytes.copy(message.body, message.filled, 0, count);
      message.filled += count;
      bytes = bytes.subarray(count);
      if (message.filled === message.body.length) {
        this.message = null;
        this.waiting.shift().resolve(message);
      }
    }
  }
}

function headOf(path, body, extra) {
  return Buffer.from(
    `POST ${PREFIX}${path} HTTP/1.1\r\nHost: lambda\r\nContent-Type: application/json\r\n${extra}` +
      `Content-Length: ${body.length}\r\n\r\n`,
  );
}

function parseHead(text) {
  const lines = text.split('\r\n');
  const headers = {};
  for (let i = 1; i < lines.length; i++) {
    const colon = lines[i].indexOf(':');
    headers[lines[i].slice(0, colon).toLowerCase()] = lines[i].slice(colon + 1).trim();
  }
  const length = Number(headers['content-length'] || 0);
  return { status: Number(lines[0].slice(9, 12)), headers, body: Buffer.allocUnsafe(length), filled: 0 };
}

module.exports = { RuntimeAPI };
