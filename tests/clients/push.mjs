// Pushes with ioredis and node-redis, and checks every answer. Arguments and output as in push.php.
// The packages are looked for in the directory of the fifth argument.

import { createRequire } from 'node:module';
import { join } from 'node:path';

const [host, port, password, kind, tools] = process.argv.slice(2);
const require = createRequire(join(tools, 'package.json'));
const Redis = require('ioredis');
const { createClient } = require('redis');

function check(right, what) {
  if (right) return;
  console.error(`push.mjs: ${what}`);
  process.exit(1);
}

function heard(room, data) {
  console.log(`${room}\t${JSON.stringify(data)}`);
}

async function withIoredis() {
  const client = new Redis({ host, port: Number(port), password: password || undefined, maxRetriesPerRequest: 1 });
  check((await client.lpush('message_queue', '{"content":"io 1"}')) >= 1, 'LPUSH answers with a length');
  heard('lobby', 'io 1');
  const answers = await client.pipeline().lpush('message_queue', '"io 2"').lpush('message_queue', '"io 3"').exec();
  check(answers.length === 2 && answers.every(([error]) => error === null), 'a pipeline has two answers');
  const exec = await client.multi().lpush('message_queue', '"io 4"').exec();
  check(exec.length === 1 && exec[0][0] === null, 'a transaction has an answer');
  for (const text of ['io 2', 'io 3', 'io 4']) heard('lobby', text);
  if (kind === 'door') {
    check((await client.publish('room:news', '{"content":"io 5"}')) === 1, 'PUBLISH answers 1');
    heard('news', 'io 5');
    const error = await client.lpush('message_queue', 'no json').catch((reason) => reason);
    check(/not-json/.test(error.message), `the error says why: ${error.message}`);
  }
  await client.quit();
}

async function withNodeRedis(RESP) {
  const client = createClient({ socket: { host, port: Number(port) }, password: password || undefined, RESP });
  client.on('error', (error) => check(false, `node-redis: ${error.message}`));
  await client.connect();
  check((await client.lPush('message_queue', [`"node ${RESP}"`, '"more"'])) >= 2, 'LPUSH answers with a length');
  heard('lobby', `node ${RESP}`);
  heard('lobby', 'more');
  const answers = await client.multi().lPush('message_queue', '"in multi"').exec();
  check(answers.length === 1, 'a transaction has an answer');
  heard('lobby', 'in multi');
  await client.close();
}

await withIoredis();
await withNodeRedis(2);
await withNodeRedis(3);
