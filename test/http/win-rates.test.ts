import t from 'tap';
import { startTestServer } from '../support/server.ts';

t.test('win rates', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const compute = (judgements: unknown, options?: unknown) =>
    call('POST', '/v1/win-rates', { json: { judgements, ...(options ? { options } : {}) } });
  const outcomes = (...values: (number | null)[]) =>
    values.map((outcome, i) => ({ item_id: `i${i}`, outcome }));

  t.test('happy', async (t) => {
    t.match(await compute(outcomes(1, 1, 1, 0, 0.5, null, 1.5)), {
      status: 200,
      body: {
        win_rate: 0.7,
        n: 5,
        wins: 3,
        losses: 1,
        ties: 1,
        dropped: { null: 1, out_of_range: 1 },
        clusters: 5,
        discrete_win_rate: 0.7,
      },
    });
    const { body } = await compute(outcomes(1, 1, 0), { confidence_level: 0.9 });
    t.match(body.confidence_interval, { level: 0.9, low: Number, high: Number, method: String });
  });

  t.test('lengths, orders and judges', async (t) => {
    const judgements = Array.from({ length: 40 }, (_, i) => ({
      item_id: `i${i >> 1}`,
      outcome: (i * 7) % 3 === 0 ? 0 : 1,
      length_candidate: 100 + ((i * 13) % 29),
      length_baseline: 110,
      judge: 'j',
      order: i % 2 === 0 ? 'candidate_first' : 'baseline_first',
    }));
    const { body } = await compute(judgements);
    t.match(body, {
      n: 40,
      clusters: 20,
      confidence_interval: { method: 'cluster_robust_t' },
      position_consistency: Number,
    });
    t.match(body.length_controlled, { win_rate: Number, standard_error: Number, n: 40, reason: null });
  });

  t.test('nothing to compute is an answer, not an error', async (t) => {
    for (const judgements of [[], outcomes(null, null), outcomes(2)]) {
      t.match(await compute(judgements), {
        status: 200,
        body: { win_rate: null, standard_error: null, confidence_interval: null, n: 0, reason: String },
      });
    }
    t.match(await compute(outcomes(0.5)), { status: 200, body: { win_rate: 0.5, ties: 1 } });
  });

  t.test('error', async (t) => {
    t.match(await compute([{ outcome: 1 }]), {
      status: 400,
      body: { errors: [{ pointer: '/judgements/0/item_id' }] },
    });
    t.match(await compute([{ item_id: 'x', outcome: 'won' }]), {
      status: 400,
      body: { errors: [{ pointer: '/judgements/0/outcome' }] },
    });
    t.match(await compute([{ item_id: 'x', outcome: 1, score: 3 }]), { status: 400 });
    t.match(await compute(outcomes(1), { confidence_level: 1 }), { status: 400 });
  });
});
