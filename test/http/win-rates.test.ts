import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { affordable, winRateOf } from '../../src/services/win-rates.ts';
import { startTestServer } from '../support/server.ts';

t.test('win rates', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const compute = (judgements: unknown, options?: unknown) =>
    call('POST', '/v1/win-rates', { json: { judgements, ...(options ? { options } : {}) } });
  const outcomes = (...values: (number | null)[]) =>
    values.map((outcome, i) => ({ item_id: `i${i}`, outcome }));

  t.test('as many bootstrap rounds as so many judgements allow', async (t) => {
    const asked = { rounds: 1000, method: 'percentile' } as const;
    t.equal(affordable(asked, 160_000), asked);
    t.same(affordable(asked, 320_000), { ...asked, rounds: 625 });
    t.same(affordable({}, 400_000), { rounds: 500 });
  });

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

  const several = (items: number, ...candidates: string[]) =>
    candidates.flatMap((candidate, c) =>
      Array.from({ length: items }, (_, i) => ({
        item_id: `i${i}`,
        candidate,
        outcome: ((i * 7 + c) % 4) / 3,
        training_seed: i % 2 === 0 ? 1 : 'two',
        judge: i % 3 === 0 ? 'ann' : 'gpt',
        length_candidate: (i * 37) % 101,
        length_baseline: 50,
      })),
    );

  t.test('all options at once', async (t) => {
    const { status, body } = await compute(several(40, 'first', 'second', 'gamed'), {
      confidence_level: 0.9,
      bootstrap: { rounds: 200, seed: 7, method: 'percentile' },
      length_control: { method: 'alpaca_eval', gamed_baselines: ['gamed'] },
      imputation_bounds: true,
      trained_policies: true,
      agreement: { judge: 'gpt', people: ['ann'] },
    });
    t.match([status, body.n], [200, 80]);
    t.match(body.bootstrap, {
      low: Number,
      high: Number,
      method: 'percentile',
      rounds: 200,
      seed: 7,
      level: 0.9,
    });
    t.match(body.candidates, [
      { candidate: 'first', win_rate: Number, length_controlled: { method: 'alpaca_eval' } },
      { candidate: 'second', training: { seeds: [{ training_seed: 1 }, { training_seed: 'two' }] } },
    ]);
    t.match(body.comparisons, [{ candidates: ['first', 'second'], difference: Number, n_shared: 40 }]);
    t.match(body.ranking, [{ rank: 1 }, { rank: 2 }, { rank: 3 }]);
    t.match(body.imputation_bounds, { all_lost: { win_rate: Number }, all_won: { win_rate: Number } });
    t.match(body.agreement, { judge: 'gpt', items: 0, reason: String });
    t.match(body.prediction_powered, { win_rate: null, reason: String });
    t.match(body, {
      summary: /^2 candidates together win/,
      notes: [String],
      nulls: { share: 0, by_reason: [] },
    });
  });

  t.test('odd judgements have a defined answer', async (t) => {
    const rows = (count: number, of: (k: number) => object) =>
      Array.from({ length: count }, (_, k) => ({ item_id: `i${k}`, ...of(k) }));
    const lengths = (k: number) => ({ length_candidate: 100 + ((k * 37) % 90), length_baseline: 130 });
    const odd: [string, unknown[], object][] = [
      ['one item', outcomes(0.7), { win_rate: 0.7, standard_error: null, reason: /two items/ }],
      [
        'all ties',
        outcomes(0.5, 0.5),
        { win_rate: 0.5, standard_error: 0, confidence_interval: { method: 'wilson' } },
      ],
      ['all null', outcomes(null, null), { win_rate: null, dropped: { null: 2 }, reason: String }],
      [
        'just above one',
        outcomes(1.0000001, 1),
        { n: 1, dropped: { out_of_range: 1 }, notes: [/1 outcome outside/] },
      ],
      ['very large', outcomes(1e308, -1e308, 0), { n: 1, dropped: { out_of_range: 2 } }],
      [
        'conflicting outcomes of one item',
        [...outcomes(1, 0), ...outcomes(0, 0)],
        { n: 4, clusters: 2, win_rate: 0.25, confidence_interval: { method: 'cluster_robust_t' } },
      ],
      [
        'lengths of some',
        rows(40, (k) => ({ outcome: k % 3 === 0 ? 1 : 0.4, ...(k % 2 === 0 ? lengths(k) : {}) })),
        { n: 40, length_controlled: { n: 20, win_rate: Number, reason: null } },
      ],
      [
        'the same length difference everywhere',
        rows(40, (k) => ({ outcome: k % 2, length_candidate: 7, length_baseline: 5 })),
        { win_rate: 0.5, length_controlled: { win_rate: null, identified: false, reason: /same in all/ } },
      ],
      [
        'separated by length',
        rows(40, (k) => ({ outcome: Number(lengths(k).length_candidate > 140), ...lengths(k) })),
        { length_controlled: { win_rate: Number, identified: false, reason: /only the penalty/ } },
      ],
      [
        'difficulties that overflow',
        rows(40, (k) => ({ outcome: k % 2, ...lengths(k), difficulty: k * 1e300 })),
        { length_controlled: { win_rate: null, reason: String } },
      ],
    ];
    const options = { bootstrap: { rounds: 100 }, imputation_bounds: true };
    for (const [name, judgements, body] of odd)
      t.match(await compute(judgements, options), { status: 200, body: { ...body, summary: String } }, name);
    const notJson = '{"judgements": [{"item_id": "x", "outcome": NaN}]}';
    const headers = { 'content-type': 'application/json' };
    t.match(await call('POST', '/v1/win-rates', { body: notJson, headers }), {
      status: 400,
      body: { code: 'malformed_json' },
    });
    t.match(await compute([{ item_id: 'x', outcome: 'NaN' }]), { status: 400 });
  });

  t.test('options that do not fit are refused', async (t) => {
    const wrong: [unknown, string][] = [
      [{ bootstrap: { rounds: 10 } }, '/options/bootstrap/rounds'],
      [{ bootstrap: { rounds: 1e9 } }, '/options/bootstrap/rounds'],
      [{ bootstrap: { seed: -1 } }, '/options/bootstrap/seed'],
      [{ bootstrap: { method: 'normal' } }, '/options/bootstrap/method'],
      [{ length_control: { method: 'none' } }, '/options/length_control/method'],
      [{ agreement: { judge: 'gpt', people: [] } }, '/options/agreement/people'],
      [{ agreement: { judge: 'gpt' } }, '/options/agreement/people'],
      [{ imputation_bounds: 'yes' }, '/options/imputation_bounds'],
    ];
    for (const [options, pointer] of wrong)
      t.match(await compute(outcomes(1, 0), options), { status: 400, body: { errors: [{ pointer }] } });
    const itself = { agreement: { judge: 'gpt', people: ['ann', 'gpt'] } };
    t.match(await compute(outcomes(1, 0), itself), {
      status: 422,
      body: { code: 'unprocessable', errors: [{ pointer: '/options/agreement/people' }] },
    });
    const names = Array.from({ length: 101 }, (_, k) => `${k}`);
    t.match(await compute(several(1, ...names)), {
      status: 422,
      body: { errors: [{ pointer: '/judgements' }] },
    });
    t.match(await compute(several(20_001, 'a'), { bootstrap: { rounds: 10_000 } }), {
      status: 422,
      body: { errors: [{ pointer: '/options/bootstrap/rounds' }] },
    });
  });

  t.test('what takes long is computed elsewhere, and answered alike', async (t) => {
    const judgements = several(1200, 'a'); // more than is computed at once
    const { body: whole } = await compute(judgements, { bootstrap: { rounds: 100 } });
    const { body: part } = await compute(judgements.slice(0, 900), { bootstrap: { rounds: 100 } });
    t.same(Object.keys(whole), Object.keys(part));
    t.match(whole, { n: 1200, bootstrap: { reason: null } });

    const long = compute(several(30_000, 'a'), { bootstrap: { rounds: 1000 } });
    let answered = 0;
    let ended = false;
    void long.then(() => {
      ended = true;
    });
    while (!ended) {
      t.equal((await call('GET', '/healthz')).status, 200);
      answered++;
      await sleep(20);
    }
    t.match(await long, { status: 200, body: { n: 30_000, bootstrap: { low: Number } } });
    t.ok(answered > 10, `${answered} other requests were answered meanwhile`);
  });

  t.test('a client that goes ends the work for it, and too much at once is refused', async (t) => {
    const judgements = outcomes(...Array.from({ length: 20_000 }, (_, i) => i % 2));
    const gone = new AbortController();
    const settled = Array.from({ length: 12 }, () =>
      winRateOf(judgements, { bootstrap: { rounds: 10_000 } }, gone.signal).then(
        () => 'computed',
        (error) => error,
      ),
    );
    t.match(await Promise.race(settled), { code: 'overloaded', retryAfterSeconds: Number });
    const reason = new Error('the client went');
    gone.abort(reason);
    const [first, ...others] = await Promise.all(settled);
    t.equal(first, reason);
    t.notOk(others.includes('computed'));
    t.match(
      await winRateOf(judgements, {}, new AbortController().signal),
      { n: 20_000 },
      'there is room again',
    );
  });
});
