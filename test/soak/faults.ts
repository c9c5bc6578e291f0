// Hundreds of random faults over runs of the real trainer: every run must end well, with the same weights, bit for bit, as
// one that nobody disturbed.
import { createRandom, type Random } from '../../examples/world/random.ts';
import { runCampaign, type Work } from '../faults/campaign.ts';
import { type Fault, faults } from '../faults/faults.ts';
import { openWorld, type World } from '../faults/world.ts';
import { queueSft, trainerPython, untilEnded } from '../support/runner.ts';
import type { Claim, SoakOptions } from './main.ts';

export async function soakUnderFaults({
  folder,
  faults: count,
  seed,
  fake,
  signal,
}: SoakOptions): Promise<Claim[]> {
  const python = fake ? null : trainerPython();
  if (python === null && !fake)
    return [{ holds: false, text: 'There is no Python for the trainer: set FINEGRAIN_PYTHON.' }];
  const world = await openWorld(folder, {
    runners: 3,
    python,
    leaseSeconds: 4,
    silenceSeconds: fake ? 8 : 30, // the real one is busy with its export for seconds
    smallDisks: true,
  });
  try {
    const random = createRandom(`faults ${seed}`);
    const { possible, claims } = whatCanBeHad(world);
    const plan = drawFaults(possible, count, random);
    const started = performance.now();
    const interrupted = new Promise<never>((_, reject) =>
      signal.addEventListener('abort', () => reject(new Error('The soak was interrupted.'))),
    );
    const campaign = async () =>
      runCampaign(world, {
        works: fake ? fakeWorks(world) : await realWorks(world),
        faults: plan,
        random,
        concurrently: 4,
        pauseMs: fake ? [200, 3000] : [500, 9000], // a trainer takes seconds to load torch, and must get somewhere
        patienceSeconds: 1800,
        log: (line) =>
          console.log(`${((performance.now() - started) / 1000).toFixed(0).padStart(5)} s  ${line}`),
      });
    const { runs, attempts, inflicted, broken } = await Promise.race([campaign(), interrupted]);
    console.log('\n  count  fault');
    for (const { name } of possible)
      console.log(
        `${String(plan.slice(0, inflicted).filter((fault) => fault.name === name).length).padStart(7)}  ${name}`,
      );
    for (const text of broken) console.log(`BROKEN ${text}`);
    if (broken.length > 0) {
      for (const kept of [...world.runners, world.worker, world.api])
        console.log(`\nThe log of ${kept.name}:\n${kept.log()}`);
    }
    return [
      ...claims,
      {
        holds: broken.length === 0,
        text: `${inflicted} faults (seed ${seed}) over ${runs} runs, which took ${attempts} attempts: all succeeded with the weights of undisturbed ones, no event lost or repeated, nothing left behind; ${broken.length} of that broken`,
      },
    ];
  } finally {
    await world.stop();
  }
}

function whatCanBeHad(world: World): { possible: Fault[]; claims: Claim[] } {
  const possible = faults.filter((fault) => !fault.unavailable?.(world));
  for (const fault of faults) {
    const why = fault.unavailable?.(world);
    if (why) console.log(`left out: ${fault.name}, as ${why}`);
  }
  return { possible, claims: [{ holds: possible.length > 15, text: `${possible.length} kinds of faults` }] };
}

/** Each kind as often as every other, in random order. */
function drawFaults(possible: Fault[], count: number, random: Random): Fault[] {
  const rounds = Array.from({ length: Math.ceil(count / possible.length) }, () => random.shuffle(possible));
  return rounds.flat().slice(0, count);
}

const settings = { max_attempts: 100 };

function fakeWorks(world: World): Work[] {
  return ['one', 'two', 'three'].map((what) => ({
    what,
    queue: async () => {
      const behaviour = { prompt: 'work = {"steps":120,"ms":40,"every":4}', response: '' };
      const rows = Array.from({ length: 5 }, (_, n) => ({ prompt: `${what} ${n}`, response: '' }));
      return (await queueSft(world, [behaviour, ...rows], settings)).id;
    },
  }));
}

/** Tiny models of every kind that trains, each run long enough to be hit a few times. */
async function realWorks(world: World): Promise<Work[]> {
  const { call } = world;
  const rows = Array.from({ length: 240 }, (_, i) => ({
    prompt: `What is twice ${i}?`,
    response: `Twice ${i} is ${2 * i}.`,
    split: i % 12 ? 'train' : 'validation',
  }));
  const sft = (epochs: number) => () =>
    queueSft(world, rows, settings, {
      base_model: { scratch: { hidden_size: 32, num_layers: 1, vocab_size: 300, context_length: 128 } },
      hyperparameters: { epochs, batch_size: 16, checkpoint_every: 10 },
    }).then(({ id }) => id);
  const queue = async (kind: string, spec: object): Promise<string> => {
    const { status, body } = await call('POST', '/v1/runs', { json: { kind, spec, ...settings } });
    if (status !== 202) throw new Error(JSON.stringify(body));
    return body.id;
  };
  const modelOf = async (id: string): Promise<object> => ({
    model_id: (await untilEnded(world, id, 900)).model_id,
  });

  const policy = await modelOf(await sft(6)());
  const reward = {
    base_model: policy,
    snapshot_id: await makeSnapshot(world),
    hyperparameters: { epochs: 12, batch_size: 4, checkpoint_every: 5 },
  };
  const reward_model = await modelOf(await queue('reward', reward));
  const prompts = await call('POST', '/v1/artifacts', {
    body: rows.map(({ prompt }) => `${JSON.stringify({ prompt })}\n`).join(''),
    headers: { 'content-type': 'application/x-ndjson' },
  });
  const ppo = {
    policy,
    reward_model,
    prompts: { prompts: prompts.body.digest },
    hyperparameters: { steps: 24, batch_size: 8, max_new_tokens: 8, scale_samples: 16, checkpoint_every: 2 },
  };
  return [
    { what: 'sft', queue: sft(20) },
    { what: 'reward', queue: () => queue('reward', reward) },
    { what: 'ppo', queue: () => queue('ppo', ppo) },
  ];
}

/** Edits that put a wrong sum right. */
async function makeSnapshot({ call }: World): Promise<string> {
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
