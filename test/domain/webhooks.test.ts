import t from 'tap';
import { readRetryAfter } from '../../src/domain/retry-after.ts';
import { maxTries, retryDelaySeconds, signedHeaders } from '../../src/domain/webhooks.ts';

t.test('a signature is the one of the Standard Webhooks specification', async (t) => {
  // the example that its reference libraries are tested with
  const message = {
    id: 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    unixSeconds: 1614265330,
    body: '{"test": 2432232314}',
  };
  t.same(signedHeaders('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', message), {
    'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    'webhook-timestamp': '1614265330',
    'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  });
});

t.test('attempts spread over about a day, each pause twice the last, with jitter', async (t) => {
  const total = (random: number) => {
    let seconds = 0;
    for (let tries = 1; tries < maxTries; tries++) seconds += retryDelaySeconds(tries, random, null);
    return seconds / 3600;
  };
  t.ok(total(0) > 18 && total(0) < total(0.5) && total(0.5) < 24 && total(1) < 28);
  t.equal(retryDelaySeconds(1, 0.5, null), 20);
  t.equal(retryDelaySeconds(4, 0.5, null), 160);
});

t.test('Retry-After lengthens a pause, within bounds, and never shortens it', async (t) => {
  t.equal(retryDelaySeconds(1, 0.5, 600), 600);
  t.equal(retryDelaySeconds(1, 0.5, 1), 20);
  t.equal(retryDelaySeconds(1, 0.5, 1e9), 6 * 3600);
  const now = Date.parse('2026-11-24T00:00:00Z');
  t.equal(readRetryAfter('120', now), 120);
  t.equal(readRetryAfter('Tue, 24 Nov 2026 00:01:00 GMT', now), 60);
  t.equal(readRetryAfter('Mon, 23 Nov 2026 00:00:00 GMT', now), 0);
  for (const nonsense of [undefined, '', 'soon', '1e999'])
    t.equal(readRetryAfter(nonsense, now), null, String(nonsense));
});
