import t from 'tap';
import { readConfig } from '../../src/config.ts';
import { addressGroup } from '../../src/http/plugins/rate-limits.ts';
import { startTestServer } from '../support/server.ts';

t.test('requests by key', async (t) => {
  const server = await startTestServer(t, { rateLimits: { requestsPerMinute: 5, authFailuresPerMinute: 0 } });
  const { call } = server;
  const [one, two] = [await server.keyWith('read'), await server.keyWith('read')];

  t.test(
    'answers say how much is left; what is over the limit is a 429 that says when to come back',
    async (t) => {
      const left: string[] = [];
      for (let i = 0; i < 5; i++) {
        const { status, headers } = await call('GET', '/v1/datasets', { key: one });
        t.equal(status, 200);
        t.equal(headers.get('ratelimit-policy'), '"key";q=5;w=60');
        t.match(headers.get('ratelimit'), /^"key";r=\d;t=([1-9]|[1-5]\d|60)$/);
        left.push(/r=(\d)/.exec(headers.get('ratelimit') ?? '')?.[1] ?? '');
      }
      t.same(left, ['4', '3', '2', '1', '0']);
      const refused = await call('GET', '/v1/datasets', { key: one });
      t.match(refused, {
        status: 429,
        body: { code: 'rate_limited', detail: /A key may send 5 requests a minute\. Try again in \d+ s/ },
      });
      t.match(refused.headers.get('retry-after'), /^([1-9]|[1-5]\d|60)$/);
      t.match(refused.headers.get('ratelimit'), /^"key";r=0;/);
    },
  );

  t.test('each key has a limit of its own, and public routes have none', async (t) => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => call('GET', '/v1/datasets', { key: two })),
    );
    t.same(answers.map(({ status }) => status).sort(), [...Array(5).fill(200), ...Array(15).fill(429)]);
    for (let i = 0; i < 10; i++) t.equal((await call('GET', '/healthz', { key: null })).status, 200);
  });
});

t.test('failed authentications by address', async (t) => {
  const server = await startTestServer(t, {
    rateLimits: { requestsPerMinute: 0, authFailuresPerMinute: 3 },
    trustProxy: ['127.0.0.1'],
  });
  const { call } = server;
  const from = (address: string, key: string | null) =>
    call('GET', '/v1/datasets', { key, headers: { 'x-forwarded-for': address } });
  const [seen, fresh, doomed] = [
    await server.keyWith('read'),
    await server.keyWith('read'),
    await server.keyWith('read'),
  ];
  const attacker = '2001:db8:1:2::bad';
  t.equal((await from(attacker, seen)).status, 200);

  t.test('after too many wrong keys an address is refused, without a question to the database', async (t) => {
    for (let i = 0; i < 5; i++) t.equal((await from(attacker, null)).status, 401, 'no key is no guess');
    for (let i = 0; i < 3; i++) t.equal((await from(attacker, `fg_guess_${i}`)).status, 401);
    const refused = await from(attacker, 'fg_guess_4');
    t.match(refused, {
      status: 429,
      body: { code: 'rate_limited', detail: /wrong key came from this address/ },
    });
    t.match(refused.headers.get('retry-after'), /^([1-9]|[1-5]\d|60)$/);

    // all connections of the pool are taken: who needs one waits
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const holders = Array.from({ length: 5 }, () => server.services.db.transaction(null, () => held));
    const waiting = from('192.0.2.1', 'fg_guess');
    const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => from(attacker, `fg_more_${i}`)));
    t.ok(answers.every(({ status }) => status === 429));
    const pending = Symbol();
    t.equal(await Promise.race([waiting, Promise.resolve(pending)]), pending, 'another address still waits');
    release();
    await Promise.all(holders);
    t.equal((await waiting).status, 401);
  });

  t.test('the /64 of an IPv6 address counts as one, others are not touched', async (t) => {
    t.equal((await from('2001:db8:1:2:ffff::1', 'fg_guess')).status, 429);
    t.equal((await from('2001:db8:1:3::1', 'fg_guess')).status, 401);
  });

  t.test('from there, a key that has worked still works; one that is new to the process waits', async (t) => {
    t.equal((await from(attacker, seen)).status, 200);
    t.equal((await from(attacker, server.bootstrapKey)).status, 200);
    t.equal((await from(attacker, fresh)).status, 429);
    t.equal((await from('192.0.2.2', fresh)).status, 200, 'from elsewhere it is new to nobody');
    t.equal((await from(attacker, fresh)).status, 200, 'and is known now');
  });

  t.test('a key that has worked and is revoked counts as wrong', async (t) => {
    const elsewhere = '198.51.100.7';
    t.equal((await from(elsewhere, doomed)).status, 200);
    const { id } = (await call('GET', '/v1/keys/current', { key: doomed })).body;
    await call('DELETE', `/v1/keys/${id}`);
    for (let i = 0; i < 3; i++) t.equal((await from(elsewhere, doomed)).status, 401);
    t.equal((await from(elsewhere, doomed)).status, 429);
  });
});

t.test('without a trusted proxy nobody chooses an address', async (t) => {
  const server = await startTestServer(t, { rateLimits: { requestsPerMinute: 0, authFailuresPerMinute: 2 } });
  const guess = (i: number) =>
    server.call('GET', '/v1/datasets', {
      key: `fg_guess_${i}`,
      headers: { 'x-forwarded-for': `192.0.2.${i}` },
    });
  t.same([(await guess(1)).status, (await guess(2)).status, (await guess(3)).status], [401, 401, 429]);
});

t.test('what counts as one address', async (t) => {
  t.equal(addressGroup('192.0.2.1'), '192.0.2.1');
  t.equal(addressGroup('::ffff:192.0.2.1'), '192.0.2.1', 'an IPv4 client on an IPv6 socket');
  t.equal(addressGroup('2001:db8:1:2:3:4:5:6'), addressGroup('2001:DB8:1:2::'));
  t.not(addressGroup('2001:db8:1:2::'), addressGroup('2001:db8:1:3::'));
  t.equal(addressGroup('fe80::1%eth0'), addressGroup('fe80::2'));
  t.equal(addressGroup('unknown'), 'unknown');
});

t.test('configuration', async (t) => {
  t.match(readConfig({}), {
    rateLimits: { requestsPerMinute: 60_000, authFailuresPerMinute: 60 },
    trustProxy: [],
  });
  t.match(
    readConfig({
      FINEGRAIN_RATE_LIMIT: '0',
      FINEGRAIN_AUTH_FAILURES: '5',
      FINEGRAIN_TRUST_PROXY: '10.0.0.0/8, ::1,loopback',
    }),
    {
      rateLimits: { requestsPerMinute: 0, authFailuresPerMinute: 5 },
      trustProxy: ['10.0.0.0/8', '::1', 'loopback'],
    },
  );
  for (const wrong of ['1', 'true', 'proxy.internal', '10.0.0.0/33', '10.0.0.0/', '10.0.0.0/8/8'])
    t.throws(() => readConfig({ FINEGRAIN_TRUST_PROXY: wrong }), { message: /FINEGRAIN_TRUST_PROXY/ }, wrong);
});
