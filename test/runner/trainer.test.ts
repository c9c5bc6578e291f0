// The real trainer under a real runner: a run that is killed half-way ends with the same weights, bit for bit.
import t, { type Test } from 'tap';
import { parseId } from '../../src/domain/ids.ts';
import { evaluationSlice } from '../../src/services/evaluation-work.ts';
import { defaultProjectId } from '../../src/services/keys.ts';
import type { Run } from '../../src/services/runs.ts';
import { scoreItems } from '../../src/services/scoring.ts';
import { eventsOf, queueSft, startRunner, trainerPython, untilEnded, untilRun } from '../support/runner.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

const python = trainerPython();
t.setTimeout(300_000);

t.test('trainer', { skip: python === null && 'no Python environment' }, async (t) => {
  const server = await startTestServer(t);
  const rows = Array.from({ length: 240 }, (_, i) => ({
    prompt: `What is twice ${i}?`,
    response: `Twice ${i} is ${2 * i}.`,
    split: i % 12 ? 'train' : 'validation',
  }));
  const spec = {
    base_model: { scratch: { hidden_size: 32, num_layers: 1, vocab_size: 300, context_length: 128 } },
    hyperparameters: { epochs: 12, batch_size: 16, checkpoint_every: 10 },
  };
  const modelOf = async (id: string) => (await server.call('GET', `/v1/models/${id}`)).body;

  const first = startRunner(t, server, { python: python!, name: 'first' });
  const undisturbed = await queueSft(server, rows, {}, spec);
  const whole = await untilEnded(server, undisturbed.id, 120);
  t.match(whole, {
    state: 'succeeded',
    progress: { fraction: 1 },
    result: { train_examples: 220, validation_examples: 20 },
    attempts: [{ outcome: 'succeeded' }],
  });
  t.ok(await modelOf(whole.model_id!), 'the model is registered');

  const { id } = await queueSft(server, rows, {}, spec);
  await untilRun(server, id, ({ progress }) => progress?.stage === 'train' && progress.step > 20, 60);
  first.process.kill('SIGKILL');
  startRunner(t, server, { python: python!, name: 'second' });
  const resumed = await untilEnded(server, id, 120);
  t.match(resumed.attempts, [{ outcome: 'lost' }, { outcome: 'succeeded' }]);
  const told = await eventsOf(server, id);
  t.ok(told.some(({ attempt, data }) => attempt === 2 && /^resuming after step/.test(String(data.message))));
  t.equal((await modelOf(resumed.model_id!)).digest, (await modelOf(whole.model_id!)).digest);

  const checkpoints = (await server.call('GET', `/v1/runs/${id}/checkpoints`)).body.items;
  const { step } = checkpoints.at(-1);
  const promoted = await server.call('POST', `/v1/runs/${id}/checkpoints/${step}/promote`, { json: {} });
  const half = await untilEnded(server, promoted.body.id, 60);
  t.match(half, { state: 'succeeded', result: { steps: step }, promoted_from: { run_id: id, step } });
  t.not((await modelOf(half.model_id!)).digest, (await modelOf(whole.model_id!)).digest);

  const samples = await server.call('POST', '/v1/artifacts', {
    body: '{"prompt":"What is twice 3?"}\n{"id":"four","prompt":"What is twice 4?"}\n',
    headers: { 'content-type': 'application/x-ndjson' },
  });
  const generate = await server.call('POST', '/v1/runs', {
    json: {
      kind: 'generate',
      spec: {
        model: { model_id: resumed.model_id },
        prompts: { prompts: samples.body.digest },
        kl_reference: { model_id: whole.model_id },
        hyperparameters: { max_new_tokens: 5 },
      },
    },
  });
  const generated = await untilEnded(server, generate.body.id, 60);
  t.match(generated, { state: 'succeeded', artifacts: [{ name: 'responses.ndjson' }], model_id: null });
  const responses = await rowsOf(server, generated);
  t.match(responses, [
    { id: '1', prompt: 'What is twice 3?', response: String, token_ids: Array },
    { id: 'four', prompt: 'What is twice 4?' },
  ]);
  for (const { kl } of responses) t.ok(Math.abs(kl) < 1e-3, 'no KL to a policy with the same weights');

  await evaluate(t, server, { tuned: resumed.model_id!, before: half.model_id! });

  const policy = { model_id: resumed.model_id };
  const snapshot_id = await makeSnapshot(server);
  const rewarded = await run(server, 'reward', {
    base_model: policy,
    snapshot_id,
    loss: 'seq_edits',
    hyperparameters: { epochs: 1, lora_rank: 4 },
  });
  t.match(rewarded.result, { loss: 'seq_edits', metrics: { bad_token_auc: null } });
  const rewardModel = await modelOf(rewarded.model_id!);
  t.equal(rewardModel.role, 'sequence_reward');
  const adapter = ['adapter/adapter_config.json', 'adapter/adapter_model.safetensors'];
  t.same(pathsOf(rewardModel).slice(0, 2), adapter, 'what LoRA trained lies beside the merged weights');
  await judgeBy(t, server, rewarded.model_id!);
  const trainEdits = (rewarded.result as { training: { edits: number } }).training.edits;
  const preferring = await run(server, 'dpo', {
    policy,
    snapshot_id,
    hyperparameters: { epochs: 1 },
  });
  t.match(preferring.result, { pairs: 'edits', train_pairs: trainEdits });
  t.match(await modelOf(preferring.model_id!), { role: 'policy' });
  const ensemble = await run(server, 'reward', {
    base_model: policy,
    snapshot_id,
    hyperparameters: { epochs: 1, heads: 3, uncertainty_penalty: 1, preferred_responses: 1 },
  });
  const scored = await server.call('POST', '/v1/score', {
    json: { model: ensemble.model_id, prompt: 'What is twice 3?', responses: ['Twice 3 is 7.'] },
  });
  t.equal(
    scored.status,
    200,
    'a model of several heads is served: its graph gives what golden.json has of PyTorch',
  );
  t.ok(scored.body.results[0].rewards.every((reward: number) => reward < 0 && reward >= -4));
  const trained = await run(server, 'ppo', {
    policy,
    reward_model: { model_id: rewarded.model_id },
    prompts: { prompts: samples.body.digest },
    evaluation: {
      prompts: { prompts: samples.body.digest },
      every: 1,
      kl_reference: policy,
      judge: { model_id: rewarded.model_id },
    },
    hyperparameters: {
      steps: 1,
      batch_size: 4,
      max_new_tokens: 8,
      scale_samples: 16,
      rollouts_every: 1,
      lora_rank: 2,
      precision: 'bf16',
      gradient_checkpointing: true,
      micro_batch_size: 2,
    },
  });
  t.same(pathsOf(await modelOf(trained.model_id!)).slice(0, 2), adapter);
  t.match(await rowsOf(server, trained), [
    {
      step: 0,
      samples: 0,
      id: '1',
      prompt: 'What is twice 3?',
      reward: Number,
      judge_reward: Number,
      kl: Number,
      kl_to_reference: Number,
    },
    { step: 0, samples: 0, id: 'four' },
    { step: 1, samples: 4, id: '1' },
    { step: 1, samples: 4, id: 'four', prompt: 'What is twice 4?' },
  ]);
  const read = async (what: string) => (await server.call('GET', `/v1/runs/${trained.id}/${what}`)).body;
  t.match(await read('rollouts'), { items: [{ step: 1, count: 4 }] });
  const rollouts = (await read('rollouts?step=1')).items;
  for (const { prompt, token_ids, tokens, rewards, kl, values, advantages, logprobs } of rollouts) {
    t.match(prompt, /^What is twice/);
    for (const column of [tokens, rewards, kl, values, advantages, logprobs])
      t.equal(column.length, token_ids.length);
  }
  const { names, series } = await read('metrics?names=reward_sum,evaluation_reward_sum');
  t.ok(names.includes('kl_per_token'));
  const sums = rollouts.map(({ rewards }: { rewards: number[] }) => rewards.reduce((a, b) => a + b, 0));
  const mean = sums.reduce((a: number, b: number) => a + b, 0) / 4;
  t.ok(Math.abs(series[0].points[0].last - mean) < 1e-4, 'metrics and rollouts tell of the same responses');
  t.match(series[1].points, [{ step: 0 }, { step: 1 }]);
});

async function run(server: TestServer, kind: string, spec: object): Promise<Run> {
  const { body } = await server.call('POST', '/v1/runs', { json: { kind, spec } });
  const ended = await untilEnded(server, body.id, 120);
  if (ended.state !== 'succeeded') throw new Error(JSON.stringify(ended.failure));
  return ended;
}

function pathsOf({ files }: { files: { path: string }[] }): string[] {
  return files.map(({ path }) => path).sort();
}

/** Policies write the responses of an evaluation, in runs of its own, and a program of ours judges them. */
async function evaluate(t: Test, server: TestServer, { tuned, before }: { tuned: string; before: string }) {
  const { call } = server;
  const items = [
    { id: 'three', prompt: 'What is twice 3?' },
    { id: 'chat', prompt: [{ role: 'user', content: 'What is twice 4?' }] },
  ];
  const hyperparameters = { max_new_tokens: 5 };
  const made = await call('POST', '/v1/evaluations', {
    json: {
      candidates: [{ name: 'tuned', model: { model_id: tuned }, hyperparameters }],
      baseline: { name: 'before', model: { model_id: before }, hyperparameters },
      prompts: { items },
      judge: { kind: 'external' },
    },
  });
  const { id, runs } = made.body;
  const ended = await Promise.all(runs.map((own: { run_id: string }) => untilEnded(server, own.run_id, 60)));
  t.match(ended, [{ state: 'succeeded' }, { state: 'succeeded' }]);
  t.equal(await workOn(server, id), null);
  t.match((await call('GET', `/v1/evaluations/${id}`)).body, { state: 'judging', progress: { items: 2 } });
  const shown = (await call('GET', `/v1/evaluations/${id}/items`)).body.items;
  const written = await Promise.all(ended.map((run) => rowsOf(server, run)));
  t.match(
    shown,
    items.map((item, n) => ({
      item_id: item.id,
      prompt: item.prompt,
      responses: [
        { name: 'before', response: written[0]![n].response },
        { name: 'tuned', response: written[1]![n].response },
      ],
    })),
  );
  const judgements = items.map(({ id: item_id }) => ({ item_id, outcome: 1 }));
  t.match(await call('POST', `/v1/evaluations/${id}/judgements`, { json: { judgements } }), { status: 200 });
  const { figures } = (await call('GET', `/v1/evaluations/${id}/result`)).body;
  t.match(figures, { win_rate: 1, n: 2 });
  t.match(figures.notes.join(' '), /leave out training variance/);
}

/** A reward model of whole responses judges. */
async function judgeBy(t: Test, server: TestServer, model: string) {
  const { call } = server;
  const made = await call('POST', '/v1/evaluations', {
    json: {
      candidates: [{ responses: [{ id: 'three', prompt: 'What is twice 3?', response: 'Twice 3 is 6.' }] }],
      baseline: { responses: [{ id: 'three', response: 'Twice 3 is 7.' }] },
      judge: { kind: 'reward', model },
    },
  });
  const { id } = made.body;
  for (const _ of ['the items', 'the verdicts']) t.equal(await workOn(server, id), null);
  const [{ outcome, detail }] = (await call('GET', `/v1/evaluations/${id}/judgements`)).body.items;
  t.equal(outcome, detail.reward_candidate > detail.reward_baseline ? 1 : 0);
  const { digest, files } = (await call('GET', `/v1/models/${model}`)).body;
  const item = { prompt: 'What is twice 3?', response: 'Twice 3 is 6.' };
  const options = { include_eos: true };
  const [scored] = await scoreItems(
    server.services,
    { digest, files },
    [item],
    options,
    new AbortController().signal,
  );
  const { rewards } = scored as { rewards: number[] };
  t.equal(detail.reward_candidate, rewards.at(-1), 'what it gives at the end of the response, not a sum');
}

/** One slice, here. */
const workOn = ({ database, services }: TestServer, id: string) =>
  evaluationSlice(
    { db: database.open('finegrain_system'), artifacts: services.artifacts, scoring: services.scoring },
    { projectId: defaultProjectId, evaluationId: parseId('evaluation', id)! },
    new AbortController().signal,
  );

/** The rows of a run's only artifact. */
// biome-ignore lint/suspicious/noExplicitAny: NDJSON of the trainer
async function rowsOf(server: TestServer, { artifacts }: Run): Promise<any[]> {
  const { text } = await server.call('GET', `/v1/artifacts/${artifacts[0]!.digest}`);
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

/** Edits that put a wrong sum right. */
async function makeSnapshot({ call }: TestServer): Promise<string> {
  const dataset_id = (await call('POST', '/v1/datasets', { json: { name: 'sums' } })).body.id;
  const pairs = Array.from({ length: 40 }, (_, i) => ({
    external_id: String(i),
    prompt: `What is twice ${i}?`,
    response_a: `Twice ${i} is ${2 * i}.`,
    response_b: `Twice ${i} is ${2 * i + 1}.`,
    preference: 'a',
  }));
  await call('POST', `/v1/datasets/${dataset_id}/pairs`, { json: { pairs } });
  const edits = pairs.map(({ external_id, response_a }) => ({
    dataset_id,
    pair_external_id: external_id,
    edited_response: response_a,
    editor: { kind: 'person', name: 'ann' },
  }));
  await call('POST', '/v1/edits', { json: { edits } });
  const split = { train: 0.5, validation: 0, test: 0.5, seed: 1 };
  return (await call('POST', '/v1/snapshots', { json: { dataset_ids: [dataset_id], split } })).body.id;
}
