// Makes the token reward model that ships with finegrain (models/token-reward-sample): pairs and edits of the demo world,
// an sft run, a reward run, all over HTTP, in a project of its own. Its figures go into the model's card.
// Equal on machines whose arithmetic is equal; elsewhere the weights differ in their last digits and so do the digests.
import { execFileSync } from 'node:child_process';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { type Client, createClient } from './client.ts';
import { type FinishedRun, runAll } from './demo/runs.ts';
import { startService } from './demo/service.ts';
import { type StageProgress, say, stage } from './demo/terminal.ts';
import { fullRecipe } from './recipe.ts';
import { demonstrationRows, editRow, pairRows } from './world/data.ts';
import { createRandom } from './world/random.ts';
import { drawSlots, renderPrompt, vocabulary, writeDemonstration } from './world/world.ts';

const folder = new URL('../models/token-reward-sample/', import.meta.url);
const name = 'token-reward-sample';

// every project knows the sample by this id: never change it. It sorts before the ids of models that runs make.
const id = 'model_018fe0a8f00070008000000000000001';

// a draw that neither the demo nor the benchmark uses
const seed = 2026;
const pairs = 24_000;
const demonstrations = 8000;
// Fresh pairs and a high rate serve it best at this length: 8,000 pairs at the demo's 1.5e-3 never blame a wrong item, these do.
const reward = { hyperparameters: { epochs: 3, batch_size: 8, learning_rate: 3e-3 } };
const split = { train: 0.85, validation: 0.05, test: 0.1, seed };
const gate = { pair_accuracy: 0.8, bad_token_auc: 0.95 };
const editsAtOnce = 500;
const probes = 200;
const uninterrupted = new AbortController().signal;

interface Model {
  name: string;
  role: string;
  digest: string;
  tokenizer_digest: string;
  files: { path: string; digest: string; bytes: number }[];
  metrics: Record<string, number>;
  created_at: string;
}

interface Made {
  model: Model;
  run: FinishedRun;
  found: [value: string, found: number][];
  files: Map<string, Uint8Array>;
}

async function makeModel(client: Client): Promise<Made> {
  const { request } = client;
  const dataset = await stage(
    'Import pairs',
    async () => {
      const { id } = await request('POST', '/v1/datasets', { name: `demo world ${seed}` });
      return { id, ...(await client.upload(`/v1/datasets/${id}/pairs/import`, pairRows(seed, pairs))) };
    },
    ({ created }) => `${created} pairs`,
  );
  await stage(
    'Post edits',
    (report) => postEdits(client, dataset.id, report),
    (count) => `${count} edits`,
  );
  const snapshot = await stage(
    'Snapshot',
    () => request('POST', '/v1/snapshots', { dataset_ids: [dataset.id], split }),
    ({ digest }) => digest,
  );
  const { digest } = await client.upload('/v1/artifacts', demonstrationRows(seed, demonstrations));
  const sftSpec = { ...fullRecipe.sft, data: { demonstrations: digest }, seed };
  const { start } = await stage(
    'Starting policy (sft run)',
    (report) => runAll(client, { start: { kind: 'sft', spec: sftSpec } }, report, uninterrupted),
    () => 'learned from noisy demonstrations',
  );
  const spec = {
    base_model: { model_id: start.model_id },
    snapshot_id: snapshot.id,
    ...reward,
    gate,
    name,
    seed,
  };
  const { run } = await stage(
    'Token reward model (reward run)',
    (report) => runAll(client, { run: { kind: 'reward', spec } }, report, uninterrupted),
    ({ run }) => JSON.stringify(run.result.metrics),
  );
  if (!run.result.gate.passed)
    throw new Error(`The model misses its gate and is not kept: ${JSON.stringify(run.result.gate.checks)}`);
  const model: Model = await request('GET', `/v1/models/${run.model_id}`);
  const files = new Map<string, Uint8Array>();
  for (const { path } of model.files)
    files.set(path, await client.file(`/v1/models/${run.model_id}/files/${path}`));
  return { model, run, found: await probe(client, run.model_id), files };
}

async function postEdits(
  { request }: Client,
  dataset_id: string,
  report: (progress: StageProgress) => void,
): Promise<number> {
  const edits = pairRows(seed, pairs)
    .map((pair) => editRow(seed, pair))
    .filter((edit) => edit !== undefined)
    .map((edit) => ({ dataset_id, ...edit }));
  for (let first = 0; first < edits.length; first += editsAtOnce) {
    await request('POST', '/v1/edits', { edits: edits.slice(first, first + editsAtOnce) });
    report({ fraction: Math.min(1, (first + editsAtOnce) / edits.length) });
  }
  return edits.length;
}

const probedValues = ['kind', 'name', 'topic', 'quantity', 'unit', 'item'] as const;

/** Shares of wrong values, one in an otherwise flawless response, that get the lowest reward of all its tokens. */
async function probe({ request }: Client, model: string): Promise<Made['found']> {
  const found: Made['found'] = [];
  for (const value of probedValues) {
    const replaced = Array.from({ length: probes }, (_, index) => {
      const random = createRandom(`${seed}/probes/${value}/${index}`);
      const slots = drawSlots(random);
      const { text } = writeDemonstration(slots, random, 0);
      const right = value === 'item' ? random.pick(slots.items) : slots[value];
      const wrong = random.pick(vocabulary[value].filter((other) => other !== right));
      const start = text.search(new RegExp(`\\b${right}\\b`));
      const response = text.slice(0, start) + wrong + text.slice(start + right.length);
      return { prompt: renderPrompt(slots), response, start, end: start + wrong.length };
    }).filter(({ start }) => start >= 0);
    const items = replaced.map(({ prompt, response }) => ({ prompt, response }));
    const { results } = await request('POST', '/v1/score', { model, items });
    const hits = replaced.filter(({ start, end }, index) => {
      const { rewards, offsets } = results[index];
      const [from, to] = offsets[rewards.indexOf(Math.min(...rewards))];
      return from < end && start < to;
    });
    found.push([value, hits.length / replaced.length]);
  }
  return found;
}

/** The commit of this checkout, and whether anything that the model is made of differs from it. */
function describeCommit(): string {
  const git = (...args: string[]): string => execFileSync('git', args, { encoding: 'utf8' }).trim();
  const changes = git('status', '--porcelain', '--', 'src', 'examples', 'runners', 'migrations');
  return git('rev-parse', '--short=12', 'HEAD') + (changes === '' ? '' : ', with local changes');
}

const figureNames = {
  edit_accuracy: 'held-out edits whose edited version scores higher',
  pair_accuracy: 'unedited pairs that the rewards order right',
  bad_token_auc: 'how well rewards find the tokens that were edited away',
} as const;

function card({ model, run, found }: Made, commit: string): string {
  const { test, training } = run.result;
  const rows = Object.entries(figureNames).map(([figure, meaning]) => {
    const { value, low, high, n, edits } = test[figure];
    const digits = (number: number): string => number.toFixed(3).replace(/^0/, '');
    return `| ${figure}: ${meaning} | ${digits(value)} [${digits(low)}, ${digits(high)}] | ${n ?? edits} |`;
  });
  const { base_model, hyperparameters } = fullRecipe.sft;
  const { hidden_size, num_layers, vocab_size, context_length } = base_model.scratch;
  const kilobytes = Math.round(model.files.reduce((sum, { bytes }) => sum + bytes, 0) / 1000);
  return `# ${name}

The token reward model that ships with finegrain, so that \`POST /v1/score\` answers straight after the install, without
training and without Python. **It knows the demo world only** (\`examples/world\`: prompts such as "Write a letter to Anna about
the harbor in a warm tone. Ask for two boxes, the ladder, the camera and the mirror."). Outside of that world its rewards
mean nothing: train a model on your own pairs and edits, and give it the alias \`token-reward\`.

| | |
| --- | --- |
| id | \`${id}\`, the same in every project |
| digest | \`${model.digest}\` |
| architecture | Llama-shaped, ${hidden_size} wide, ${num_layers} layers, ${vocab_size} entries of byte-level BPE, reads ${context_length} tokens; ${kilobytes} kB with its ONNX graphs |
| reward | log(1 − p) of each token, p the probability that an annotator edits it away; 0 is best |
| starting policy | an sft run from random weights on ${demonstrations} noisy demonstrations, ${hyperparameters.epochs} epochs |
| trained on | a reward run on ${training.edits} edits of the less-preferred response of ${pairs} pairs, by the simulated editor, ${reward.hyperparameters.epochs} epochs |
| language | English of about 140 words |
| licence | Apache-2.0, as the repository; all texts are made by \`examples/world\` |

Figures on held-out prompts (${split.test * 100} % of all; 95 % intervals over the prompts of this one draw, seed ${seed}; the annotators' votes
allow a pair_accuracy of about .91):

| figure | value | n |
| --- | --- | --- |
${rows.join('\n')}

Of wrong values, one in an otherwise flawless response (up to ${probes} of each), this share gets the lowest reward of all
tokens: ${found.map(([value, share]) => `${value} ${Math.round(share * 100)} %`).join(', ')}.

It is not a judge of anything real, it has not seen other prompts, other languages or other mistakes than the demo world's,
and it was trained with a simulated editor who is wrong now and then (\`examples/world/annotators.ts\`). The win rates of the demo and
the benchmarks never use it.

## How it was made

\`\`\`sh
npm run sample-model
\`\`\`

from commit ${commit}, on ${model.created_at.slice(0, 10)}, Node ${process.versions.node}, ${process.platform} ${process.arch}, ${cpus()[0]?.model ?? 'unknown CPU'}. The command writes this folder anew, this card
included. All data and seeds are fixed: on a machine with the same arithmetic the files come out equal, elsewhere the weights
differ in their last digits and the digests with them.

\`model.json\` is how every project sees the model (\`GET /v1/models/{id}\`), with the digests of its files: a file that was changed
is refused. \`report.json\` is the run's own report. \`golden.json\` holds rewards that the trainer computed; the service compares
before it serves.
`;
}

async function main(): Promise<void> {
  process.on('disconnect', () => process.exit(1)); // whoever started this is gone; the service follows
  const commit = describeCommit();
  const service = await stage('Start the service', startService, ({ url }) => url);
  try {
    const operator = createClient(service.url, service.key);
    const { key } = await operator.request('POST', '/v1/projects', { name: 'sample model' });
    const made = await makeModel(createClient(service.url, key));
    const { model, files } = made;
    await mkdir(folder, { recursive: true });
    for (const old of await readdir(folder)) await rm(new URL(old, folder));
    for (const [path, content] of files) await writeFile(new URL(path, folder), content);
    const { name, role, digest, tokenizer_digest, metrics, created_at } = model;
    const registered = { id, name, role, digest, tokenizer_digest, files: model.files, metrics, created_at };
    await writeFile(new URL('model.json', folder), `${JSON.stringify(registered, null, 2)}\n`);
    await writeFile(new URL('README.md', folder), card(made, commit));
    say(`Written to ${fileURLToPath(folder)}.`);
  } finally {
    await service.stop();
  }
}

main().then(
  () => process.exit(),
  (error: Error) => {
    process.stderr.write(`\n${error.message}\n`);
    process.exit(1);
  },
);
