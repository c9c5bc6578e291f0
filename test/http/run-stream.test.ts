// Events of a run as a stream: in order, without loss or repeat, whatever happens to connection, process and database.
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { startApiProcess } from '../support/api-process.ts';
import { type EventStream, openEventStream } from '../support/event-stream.ts';
import { holdRun as hold } from '../support/held-run.ts';
import { startTestServer, type TestServer, type TestServerOptions } from '../support/server.ts';

const fast = { heartbeatMs: 150, busyMs: 10, idleMs: 50 };
t.setTimeout(240_000);

interface WatchedRun {
  id: string;
  path: string;
  /** Reports so many log events, in one batch. */
  report(count: number): Promise<void>;
  finish(): Promise<unknown>;
}

/** A run that is queued and claimed, with one event. */
async function holdRun(server: TestServer): Promise<WatchedRun> {
  const run = await hold(server);
  let said = 0;
  return {
    id: run.id,
    path: `/v1/runs/${run.id}/events`,
    async report(count) {
      const message = () => `line ${++said}\nof two`;
      await run.report(
        Array.from({ length: count }, () => ({ type: 'log', level: 'info', message: message() })),
      );
    },
    finish: () => run.finish(),
  };
}

const numbers = ({ events }: EventStream): number[] =>
  events.flatMap(({ id }) => (id === null ? [] : Number(id)));
const upTo = (last: number, from = 1): number[] =>
  Array.from({ length: last - from + 1 }, (_, i) => from + i);
const hasEnd = ({ events }: EventStream): boolean => events.at(-1)?.event === 'end';

t.test('streams of run events', async (t) => {
  const start = (t: Test, options: TestServerOptions = {}) =>
    startTestServer(t, { streams: fast, ...options });
  const server = await start(t);
  const openAt = async (t: Test, url: string, headers?: Record<string, string>): Promise<EventStream> => {
    const stream = await openEventStream(url, server.bootstrapKey, headers);
    t.teardown(() => stream.close());
    return stream;
  };
  const open = (t: Test, path: string, headers?: Record<string, string>) =>
    openAt(t, server.url + path, headers);
  /** How often the API asks the database for something in this time. */
  const countLooks = async (ms: number): Promise<number> => {
    const { db } = server.services;
    const { transaction } = db;
    let looks = 0;
    db.transaction = (projectId, work) => {
      looks += 1;
      return transaction(projectId, work);
    };
    await sleep(ms);
    db.transaction = transaction;
    return looks;
  };

  t.test('events come as they happen, as JSON has them, then the end, once', async (t) => {
    const run = await holdRun(server);
    const stream = await open(t, run.path);
    t.equal(stream.headers['content-type']?.split(';')[0], 'text/event-stream');
    t.match(stream.headers['cache-control'], /no-store.*no-transform/);
    t.match(stream.headers.vary, /Accept/);
    await stream.until((so) => so.events.length === 1);
    t.equal(stream.retry, 1000);
    await run.report(3);
    await stream.until((so) => so.events.length === 4);
    await run.report(2000);
    await run.finish();
    await stream.until(hasEnd);
    t.equal(await stream.ended, true);
    t.same(numbers(stream), upTo(2005));
    t.same(stream.events.at(-1), {
      id: null,
      event: 'end',
      data: { state: 'succeeded', last_event: 2005 },
    });
    const { body } = await server.call('GET', `${run.path}?limit=4`);
    t.same(
      stream.events.slice(0, 4).map(({ data }) => data),
      body.items,
    );
    t.equal(stream.events[1]!.event, 'log');
  });

  t.test(
    'a reader that comes back goes on where it was; when all was seen, it is told to stop',
    async (t) => {
      const run = await holdRun(server);
      await run.report(700);
      const cut = await open(t, run.path);
      await cut.until((so) => so.events.length > 100);
      cut.close();
      const last = 123;
      const again = await open(t, run.path, { 'last-event-id': String(last) });
      await again.until((so) => numbers(so).at(-1) === 701);
      await run.report(1);
      await run.finish();
      t.equal(await again.ended, true);
      t.same(numbers(again), upTo(703, last + 1));
      t.ok(hasEnd(again));

      const over = await open(t, run.path, { 'last-event-id': '703' });
      t.equal(over.status, 204);
      const asked = await open(t, `${run.path}?after=703`);
      t.equal(await asked.ended, true);
      t.match(asked.events, [{ event: 'end', data: { state: 'succeeded' } }]);
      const both = await open(t, `${run.path}?after=1`, { 'last-event-id': '702' });
      await both.ended;
      t.same(numbers(both), [703], 'Last-Event-ID goes before after');
    },
  );

  t.test('silence is filled with comments', async (t) => {
    const run = await holdRun(server);
    const stream = await open(t, run.path);
    await stream.until((so) => so.comments.length >= 3);
    t.same([...new Set(stream.comments)], ['still here']);
    await run.report(1);
    await stream.until((so) => so.events.length === 2);
  });

  t.test(
    'streams of one run share one look at the database, and nothing is held between looks',
    async (t) => {
      const run = await holdRun(server);
      const streams = await Promise.all(Array.from({ length: 40 }, () => open(t, run.path)));
      for (const stream of streams) await stream.until((so) => so.events.length === 1);
      const startedAt = Date.now();
      const looks = await countLooks(1000);
      const most = (Date.now() - startedAt) / fast.idleMs + 10;
      t.ok(looks > 3 && looks < most, `${looks} looks for 40 streams`);
      const { db } = server.services;
      while (db.connections().open > db.connections().idle) await sleep(5); // of a look that is under way
      await run.report(5);
      for (const stream of streams) await stream.until((so) => so.events.length === 6);
      await run.finish();
      for (const stream of streams) t.ok(await stream.ended);
    },
  );

  t.test('readers that leave leave nothing behind', async (t) => {
    const run = await holdRun(server);
    const streams = await Promise.all(Array.from({ length: 20 }, () => open(t, run.path)));
    for (const stream of streams) stream.close();
    while ((await countLooks(300)) > 0);
    t.pass('nobody looks for a run that nobody watches');
  });

  t.test('only so many streams are open in a process', async (t) => {
    const server = await start(t, { streams: { ...fast, mostStreams: 2 } });
    const run = await holdRun(server);
    const open = () => openEventStream(server.url + run.path, server.bootstrapKey);
    const first = await open();
    const second = await open();
    t.teardown(() => second.close());
    const refused = await server.call('GET', run.path, { headers: { accept: 'text/event-stream' } });
    t.match(refused, { status: 429, body: { code: 'overloaded' } });
    t.ok(refused.headers.get('retry-after'));
    first.close();
    for (;;) {
      const next = await open();
      next.close();
      if (next.status === 200) break;
      await sleep(20);
    }
  });

  t.test('a reader that does not read is not written to without end', async (t) => {
    const run = await holdRun(server);
    const slow = await open(t, run.path);
    slow.pause();
    for (let n = 0; n < 20; n++) await run.report(1000);
    const before = process.memoryUsage().arrayBuffers;
    await sleep(300);
    t.ok(process.memoryUsage().arrayBuffers - before < 20e6);
    await run.finish();
    slow.resume();
    t.equal(await slow.ended, true);
    t.same(numbers(slow), upTo(20_002));
    t.ok(hasEnd(slow));
  });

  t.test('what is asked for wrongly is refused', async (t) => {
    const run = await holdRun(server);
    const wrong = await server.call('GET', run.path, {
      headers: { accept: 'text/event-stream', 'last-event-id': 'x' },
    });
    t.match(wrong, { status: 400, body: { errors: [{ pointer: '/last-event-id', in: 'headers' }] } });
    const accept = { accept: 'text/event-stream' };
    t.match(await server.call('GET', `/v1/runs/run_${'0'.repeat(32)}/events`, { headers: accept }), {
      status: 404,
    });
    const key = await server.otherProjectKey();
    t.match(await server.call('GET', run.path, { headers: accept, key }), { status: 404 });
    t.match(await server.call('GET', run.path, { headers: { accept: 'image/png' } }), { status: 406 });
    t.equal((await server.call('GET', run.path, { headers: { accept: '*/*' } })).body.items.length, 1);
    const head = await server.call('HEAD', run.path, { headers: accept });
    t.equal(head.status, 200, 'HEAD opens no stream');
  });

  t.test('streams end in order when the service stops', async (t) => {
    const server = await start(t);
    const run = await holdRun(server);
    const stream = await openEventStream(server.url + run.path, server.bootstrapKey);
    await stream.until((so) => so.events.length === 1);
    const startedAt = Date.now();
    await server.app.close();
    t.equal(await stream.ended, true, 'not broken off');
    t.notOk(hasEnd(stream), 'the run has not ended');
    t.ok(Date.now() - startedAt < 5000);
  });

  t.test(
    'neither a database that is away for a while nor an API that is killed loses or repeats an event',
    async (t) => {
      const run = await holdRun(server);
      const proxy = await startProxy(t, server.database.urlOf('finegrain_api'));
      const env = {
        DATABASE_URL: proxy.url,
        FINEGRAIN_API_KEY: server.bootstrapKey,
        FINEGRAIN_DATA_DIR: server.dataDir,
      };
      const first = await startApiProcess(t, env);
      const cut = await openAt(t, first.url + run.path);
      let reporting = true;
      const reports = (async () => {
        while (reporting) {
          await run.report(7);
          await sleep(20);
        }
      })();
      await cut.until((so) => so.events.length > 30);
      await proxy.cut();
      await cut.until((so) => so.comments.some((comment) => /database/.test(comment)));
      const before = cut.events.length;
      await proxy.mend();
      await cut.until((so) => so.events.length > before);

      await first.kill();
      t.equal(await cut.ended, false, 'broken off');
      const seen = numbers(cut);
      const second = await startApiProcess(t, env);
      const again = await openAt(t, second.url + run.path, { 'last-event-id': String(seen.at(-1)) });
      await again.until((so) => so.events.length > 30);
      reporting = false;
      await reports;
      await run.finish();
      t.equal(await again.ended, true);
      const { body } = await server.call('GET', `/v1/runs/${run.id}`);
      t.same([...seen, ...numbers(again)], upTo(body.last_event));
    },
  );
});

/** Stands between the API and its database, and can fail as a network does. */
async function startProxy(t: Test, databaseUrl: string) {
  const { hostname, port } = new URL(databaseUrl);
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    client.pipe(upstream).pipe(client);
  });
  const cut = async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  const listen = (at: number) => new Promise<void>((resolve) => server.listen(at, '127.0.0.1', resolve));
  await listen(0);
  const at = (server.address() as AddressInfo).port;
  t.teardown(() => server.listening && cut());
  const url = new URL(databaseUrl);
  url.host = `127.0.0.1:${at}`;
  return { url: url.href, cut, mend: () => listen(at) };
}
