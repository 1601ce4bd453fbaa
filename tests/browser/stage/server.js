/** The server under test: the real binary, in a folder of its own, on free ports. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { connect } from 'node:net';
import { freePort, until } from './ports.js';

export const BINARY = resolve(process.env.ROOMCAST_BIN ?? join(import.meta.dirname, '../../../target/debug/roomcast'));

export class Server {
  /** @param {object} settings config keys and their values, as for `--set`; without `store.url` it has a store of its own */
  static async start(settings = {}) {
    const server = new Server();
    server.folder = await mkdtemp(join(tmpdir(), 'roomcast-stories-'));
    server.port = await freePort();
    server.door = await freePort();
    server.settings = { 'queue.door.listen': `127.0.0.1:${server.door}`, ...settings };
    await server.run();
    return server;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Starts the process; again after `end`, on the same ports and with what it had stored. */
  async run() {
    const sets = Object.entries(this.settings).flatMap(([key, value]) => ['--set', `${key}=${value}`]);
    this.words = '';
    if (!('store.url' in this.settings)) sets.push('--store', `sqlite://${join(this.folder, 'roomcast.db')}`);
    this.process = spawn(BINARY, ['serve', '--listen', `127.0.0.1:${this.port}`, ...sets], {
      cwd: this.folder,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.on('data', (bytes) => (this.words = (this.words + bytes).slice(-20_000)));
    }
    let failure;
    this.process.on('error', (error) => (failure = `cannot start ${BINARY}: ${error.message}`));
    this.process.on('exit', (code, signal) => (failure = `${BINARY} ended with ${signal ?? code}:\n${this.words}`));
    await until('the server is ready', async () => {
      if (failure) throw new Error(failure);
      const answer = await fetch(`${this.url}/readyz`).catch(() => null); // not listening yet
      return answer?.status === 200;
    });
  }

  /** Ends the process and waits until it is gone. */
  async end(signal) {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const gone = once(this.process, 'exit');
    this.process.kill(signal);
    await gone;
  }

  async close() {
    await this.end('SIGKILL');
    await rm(this.folder, { recursive: true, force: true });
  }

  /** Pushes payloads through the built-in door, all in one go, and waits for every answer. */
  async push(payloads) {
    const socket = connect(this.door, '127.0.0.1');
    await once(socket, 'connect');
    let answers = '';
    socket.on('data', (bytes) => (answers += bytes));
    const bulk = (text) => `$${Buffer.byteLength(text)}\r\n${text}\r\n`;
    const lines = payloads.map((one) => `*3\r\n${bulk('LPUSH')}${bulk('message_queue')}${bulk(JSON.stringify(one))}`);
    socket.write(lines.join(''));
    try {
      await until('every push is answered', () => answers.split('\r\n').length > payloads.length, 60_000);
      const refused = answers.split('\r\n').filter((line) => line.startsWith('-'));
      if (refused.length > 0) throw new Error(`refused: ${refused[0]}`);
    } finally {
      socket.destroy();
    }
  }
}
