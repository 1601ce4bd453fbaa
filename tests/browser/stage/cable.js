/**
 * A network cable between a page and the server, to be cut and mended: DevTools' own network conditions do not
 * touch open WebSockets.
 */
import { connect, createServer } from 'node:net';
import { once } from 'node:events';
import { freePort } from './ports.js';

export class Cable {
  #pairs = new Set();
  #plug = null;
  #mute = { up: false, down: false };

  static async to(port) {
    const cable = new Cable();
    cable.port = await freePort();
    cable.target = port;
    await cable.mend();
    return cable;
  }

  get url() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Lets everything through from now on. */
  async mend() {
    this.#mute = { up: false, down: false };
    if (this.#plug) return;
    this.#plug = createServer((near) => this.#join(near));
    this.#plug.listen(this.port, '127.0.0.1');
    await once(this.#plug, 'listening');
  }

  /** Ends every connection and refuses new ones. */
  cut() {
    for (const pair of this.#pairs) for (const end of pair) end.destroy();
    this.#pairs.clear();
    this.#plug?.close();
    this.#plug = null;
  }

  /** Swallows what goes to the server (`up`) or to the page (`down`), without a sign to either. */
  mute(directions) {
    this.#mute = { up: false, down: false, ...directions };
  }

  #join(near) {
    const far = connect(this.target, '127.0.0.1');
    const pair = [near, far];
    this.#pairs.add(pair);
    near.on('data', (bytes) => this.#mute.up || far.write(bytes));
    far.on('data', (bytes) => this.#mute.down || near.write(bytes));
    for (const end of pair) {
      end.on('error', () => {}); // a reset is what a cut looks like; `close` follows and is dealt with
      end.on('close', () => {
        this.#pairs.delete(pair);
        near.destroy();
        far.destroy();
      });
    }
  }
}
