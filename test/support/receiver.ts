// A receiver of webhooks: an HTTP server that keeps what it got, and answers as its path says.
import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';

export interface Received {
  path: string;
  headers: IncomingHttpHeaders;
  /** as it came */
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests read what the document promises
  body: any;
}

export interface Receiver {
  /** of a path on 127.0.0.1 */
  url(path: string): string;
  port: number;
  /** status that a path answers from now on; 0: it answers nothing */
  answers: Record<string, number>;
  got(path: string): Received[];
  /** Waits for so many requests to a path. @throws Error after half a minute */
  until(path: string, count: number): Promise<Received[]>;
}

/** Paths with a behaviour of their own: /redirect, /busy (Retry-After), /huge, /cut (mid-way), /broken (no answer at all). */
export async function startReceiver(t: Test): Promise<Receiver> {
  const received: Received[] = [];
  const answers: Record<string, number> = {};
  const server = createServer(async (request, response) => {
    const path = request.url!;
    let text = '';
    for await (const chunk of request) text += chunk;
    received.push({ path, headers: request.headers, text, body: JSON.parse(text) });
    const status = answers[path];
    if (status === 0) return;
    if (status !== undefined) response.writeHead(status).end('{}');
    else if (path === '/redirect') response.writeHead(302, { location: '/redirected' }).end();
    else if (path === '/busy') response.writeHead(503, { 'retry-after': '900' }).end();
    else if (path === '/huge') response.end(Buffer.alloc(10_000_000));
    else if (path === '/cut') {
      response.writeHead(200, { 'content-length': 100 });
      response.write('half');
      setImmediate(() => response.destroy());
    } else if (path === '/broken') response.destroy();
    else response.writeHead(204).end();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.close();
    server.closeAllConnections();
  });
  const { port } = server.address() as AddressInfo;
  const got = (path: string) => received.filter((one) => one.path === path);
  return {
    url: (path) => `http://127.0.0.1:${port}${path}`,
    port,
    answers,
    got,
    async until(path, count) {
      for (let waited = 0; waited < 30_000; waited += 20) {
        if (got(path).length >= count) return got(path);
        await sleep(20);
      }
      throw new Error(`${path} got ${got(path).length} of ${count} requests within 30 s`);
    },
  };
}
