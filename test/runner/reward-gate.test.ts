// A reward run: what its trainer is given, and when its model takes the alias.
import t from 'tap';
import { registerTinyModel } from '../support/models.ts';
import { eventsOf, fakePython, startRunner, untilEnded } from '../support/runner.ts';
import { startTestServer } from '../support/server.ts';

t.setTimeout(120_000);

t.test('reward gate', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  startRunner(t, server, { python: await fakePython(server.dataDir) });
  const base = await registerTinyModel(server, { role: 'policy' });
  const before = await registerTinyModel(server, { role: 'token_reward', alias: 'token-reward' });

  /** A run whose trainer measures what it is told. */
  const train = async (metrics: object, gate?: object) => {
    const dataset = (await call('POST', '/v1/datasets', { json: { name: 'source' } })).body.id;
    const pair = {
      external_id: 'e',
      prompt: `measure = ${JSON.stringify(metrics)}`,
      response_a: 'the sky is blue today',
      response_b: 'the sky is green today',
      preference: 'a',
    };
    await call('POST', `/v1/datasets/${dataset}/pairs`, { json: { pairs: [pair] } });
    const edit = {
      dataset_id: dataset,
      pair_external_id: 'e',
      edited_response: 'the sky is blue today',
      editor: { kind: 'person', name: 'ann' },
    };
    await call('POST', '/v1/edits', { json: { edits: [edit] } });
    const split = { train: 1, validation: 0, test: 0, seed: 1 };
    const snapshot = (await call('POST', '/v1/snapshots', { json: { dataset_ids: [dataset], split } })).body
      .id;
    const spec = {
      base_model: { model_id: base },
      snapshot_id: snapshot,
      alias: 'token-reward',
      ...(gate ? { gate } : {}),
    };
    const { body } = await call('POST', '/v1/runs', { json: { kind: 'reward', spec } });
    return untilEnded(server, body.id);
  };
  const carrier = async () => (await call('GET', '/v1/models/token-reward')).body.id;

  t.test('below the gate the model is registered, the alias stays, and an alarm says why', async (t) => {
    const run = await train({ pair_accuracy: 0.69, bad_token_auc: 0.97, edit_accuracy: 0.99 });
    t.match(run, {
      state: 'succeeded',
      model_id: /^model_/,
      result: {
        metrics: { pair_accuracy: 0.69, bad_token_auc: 0.97, edit_accuracy: 0.99 },
        gate: {
          passed: false,
          checks: [{ metric: 'pair_accuracy', value: 0.69, minimum: 0.7, passed: false }],
        },
      },
      alarms: [
        {
          code: 'gate_failed',
          detail: /pair_accuracy is 0\.690, 0\.7 is needed/,
          value: 0.69,
          threshold: 0.7,
        },
      ],
    });
    t.equal(await carrier(), before);
    t.ok(
      (await eventsOf(server, run.id)).some(
        ({ type, data }) => type === 'alarm' && data.code === 'gate_failed',
      ),
    );
  });

  t.test('what could not be measured passes no gate', async (t) => {
    const run = await train({ pair_accuracy: null });
    t.match(run, { state: 'succeeded', result: { gate: { passed: false } }, alarms: [{ value: null }] });
    t.equal(await carrier(), before);
  });

  t.test('every figure of the gate counts', async (t) => {
    const run = await train({ pair_accuracy: 0.8, bad_token_auc: 0.85 }, { bad_token_auc: 0.9 });
    t.match(run, {
      result: {
        gate: { passed: false, checks: [{ metric: 'bad_token_auc', passed: false }, { passed: true }] },
      },
    });
    t.equal(await carrier(), before);
  });

  t.test('at the gate the alias moves, in the same moment as the run succeeds', async (t) => {
    const run = await train({ pair_accuracy: 0.7, bad_token_auc: 0.9 }, { bad_token_auc: 0.9 });
    t.match(run, { state: 'succeeded', result: { gate: { passed: true } }, alarms: [] });
    t.equal(await carrier(), run.model_id);
    t.match((await call('GET', `/v1/models/${run.model_id}`)).body, { role: 'token_reward', run_id: run.id });
  });

  t.test('dense PPO refuses a model that cannot find tokens, unless it is asked for', async (t) => {
    const { model_id } = await train({ pair_accuracy: 0.9, bad_token_auc: 0.62 });
    const prompts = await call('POST', '/v1/artifacts', {
      body: '{"prompt": "p"}\n',
      headers: { 'content-type': 'application/x-ndjson' },
    });
    const ppo = (hyperparameters: object) =>
      call('POST', '/v1/runs', {
        json: {
          kind: 'ppo',
          validate_only: true,
          spec: {
            policy: { model_id: base },
            reward_model: { model_id },
            prompts: { prompts: prompts.body.digest },
            hyperparameters,
          },
        },
      });
    t.match(await ppo({}), {
      status: 422,
      body: { errors: [{ pointer: '/spec/reward_model', detail: /bad_token_auc of 0\.620; below 0\.75/ }] },
    });
    for (const asked of [{ minimum_bad_token_auc: 0.6 }, { reward_placement: 'end' }])
      t.match(await ppo(asked), { status: 200 });
  });

  t.test('the trainer is given the edit and the pair in tokens of the base model', async (t) => {
    const { result } = await train({ pair_accuracy: 0.1 });
    const [edit, pair] = (result as { rows: Record<string, never>[] }).rows;
    t.match(edit, {
      type: 'edit',
      split: 'train',
      usable: true,
      original: { labels: Array },
      edited: { labels: Array },
    });
    t.match(pair, { type: 'pair', split: 'train', preferred: { text: 'the sky is blue today' } });
  });
});
