// A server of token rewards that speaks vLLM's pooling API, and behaves as badly as it is told to.
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';

export interface PoolingAsked {
  /** before /pooling */
  path: string;
  authorization: string | undefined;
  model: string;
  input: number[];
  task: string;
  encoding_format: string;
  use_activation: boolean;
  /** times that this input was asked for before at this path */
  before: number;
  /** the client went away before it had an answer */
  left: boolean;
}

export interface PoolingReply {
  status?: number;
  headers?: Record<string, string>;
  /** one for each token */
  numbers?: unknown[];
  /** in the place of an answer with `numbers` */
  body?: string | Buffer;
  /** waits for it */
  after?: Promise<unknown>;
  /** answers nothing; breaks off; closes without a word */
  way?: 'hang' | 'cut' | 'close';
}

export interface PoolingServer {
  url: string;
  all: PoolingAsked[];
  /** how many requests were under way at a time, at most */
  mostAtOnce: number;
}

export async function startPoolingServer(
  t: Test,
  reply: (asked: PoolingAsked) => PoolingReply,
): Promise<PoolingServer> {
  let atOnce = 0;
  const server = createServer(async (request, response) => {
    atOnce += 1;
    pooling.mostAtOnce = Math.max(pooling.mostAtOnce, atOnce);
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    const [, path] = /^(.*)\/pooling$/.exec(request.url!) ?? [];
    if (request.method !== 'POST' || path === undefined) return void response.writeHead(404).end();
    const body = JSON.parse(text);
    const before = pooling.all.filter(
      (other) => other.path === path && other.input.join() === body.input.join(),
    ).length;
    const asked: PoolingAsked = {
      ...body,
      path,
      authorization: request.headers.authorization,
      before,
      left: false,
    };
    pooling.all.push(asked);
    response.once('close', () => {
      atOnce -= 1;
      asked.left = !response.writableFinished;
    });
    const { status = 200, headers = {}, numbers, body: given, after, way } = reply(asked);
    await (after ?? sleep(5)); // so that requests at a time are seen to be
    if (way === 'hang') return;
    if (way === 'close') return void response.destroy();
    response.on('error', () => {}); // the client has gone
    response.writeHead(status, { 'content-type': 'application/json', ...headers });
    if (way === 'cut') {
      response.write('{"data": [');
      setImmediate(() => response.destroy());
      return;
    }
    const data = numbers?.map((number) => [number]);
    response.end(given ?? JSON.stringify({ object: 'list', data: [{ index: 0, object: 'pooling', data }] }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const pooling: PoolingServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    all: [],
    mostAtOnce: 0,
  };
  return pooling;
}
