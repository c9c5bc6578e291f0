// The whole loop over HTTP, as an outside user would run it: pairs, edits, token reward model, scores, fine-grained PPO,
// win rate. Its world (examples/world) has a hidden scorer, which serves the annotators and the judge, never training.
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type Client, createClient } from './client.ts';
import { annotateAll } from './demo/annotators.ts';
import { type Service, startService } from './demo/service.ts';
import { colourTokens, printTable, type StageProgress, say, stage, stageTimes } from './demo/terminal.ts';
import { fullRecipe, quickRecipe, type Recipe } from './recipe.ts';
import { judge } from './world/annotators.ts';
import { demonstrationRows, pairRows, promptRows } from './world/data.ts';

const usage = `npm run demo -- [--quick] [--keep] [--seed N]

  --quick   under 3 minutes; ${quickRecipe.leavesOut}
  --keep    leave the service running at the end, until Ctrl-C
  --seed N  another draw of the world and of all random numbers (default 1)
`;

const gate = { pair_accuracy: 0.7, bad_token_auc: 0.9 };

interface Options {
  recipe: Recipe;
  seed: number;
}

async function runLoop(
  client: Client,
  service: Service,
  { recipe, seed }: Options,
  signal: AbortSignal,
): Promise<boolean> {
  const { request } = client;

  const dataset = await stage(
    'Import pairs',
    async () => {
      const { id } = await request('POST', '/v1/datasets', {
        name: `demo world ${seed}`,
        description: 'Letters with slots, five annotators a pair',
      });
      const result = await client.upload(`/v1/datasets/${id}/pairs/import`, pairRows(seed, recipe.pairs));
      return { id, ...result };
    },
    ({ created, rejected }) => `${created} pairs, ${rejected} rejected`,
  );

  const edits = await stage(
    'Edit (three outside annotators, over HTTP)',
    (report) => annotateAll(service, dataset.id, seed, report, signal),
    (done) => `${done.edited} edits of ${done.pairs} pairs`,
  );

  const snapshot = await stage(
    'Snapshot',
    () => request('POST', '/v1/snapshots', { dataset_ids: [dataset.id], split: { ...recipe.split, seed } }),
    ({ digest, counts }) => `${counts.splits.train.edits} edits to train on, ${digest.slice(0, 19)}…`,
  );

  const demonstrations = await client.upload('/v1/artifacts', demonstrationRows(seed, recipe.demonstrations));
  const prompts = await client.upload(
    '/v1/artifacts',
    promptRows(seed, recipe.evaluationPrompts, 'evaluation'),
  );
  const run = async (
    name: string,
    kind: string,
    spec: object,
    summary: (result: RunResult) => string,
  ): Promise<RunResult> =>
    stage(name, (report) => runToEnd(client, kind, { seed, ...spec }, report, signal), summary);

  const sft = await run(
    'Starting policy (sft run)',
    'sft',
    {
      base_model: recipe.sft.base_model,
      data: { demonstrations: demonstrations.digest },
      hyperparameters: recipe.sft.hyperparameters,
    },
    () => 'learned from noisy demonstrations',
  );
  const reward = await run(
    'Token reward model (reward run)',
    'reward',
    {
      base_model: { model_id: sft.model_id },
      snapshot_id: snapshot.id,
      hyperparameters: recipe.reward.hyperparameters,
      gate,
      alias: 'token-reward',
    },
    ({ result }) =>
      `gate ${result.gate.passed ? 'passed, alias token-reward moved' : 'missed, alias not moved'}`,
  );
  await showScores(client, reward.model_id, seed);

  const ppo = await run(
    'Fine-grained PPO (ppo run)',
    'ppo',
    {
      policy: { model_id: sft.model_id },
      reward_model: { model_id: reward.model_id },
      prompts: { snapshot_id: snapshot.id, split: 'train' },
      hyperparameters: recipe.ppo.hyperparameters,
    },
    ({ result }) => `KL to the start ${result.kl_per_response.toFixed(1)} nats a response`,
  );
  const generate = async (name: string, modelId: string) => {
    const { artifacts } = await run(
      name,
      'generate',
      {
        model: { model_id: modelId },
        prompts: { prompts: prompts.digest },
        hyperparameters: recipe.generate.hyperparameters,
      },
      () => `${recipe.evaluationPrompts} responses`,
    );
    const { digest } = artifacts.find((artifact: { name: string }) => artifact.name === 'responses.ndjson')!;
    return (await client.download(`/v1/artifacts/${digest}`)) as {
      id: string;
      prompt: string;
      response: string;
    }[];
  };
  const baseline = await generate('Responses of the starting policy', sft.model_id);
  const candidate = await generate('Responses of the PPO policy', ppo.model_id);

  const win = await stage(
    'Judge (external) and win rate',
    async () => {
      const byId = new Map(baseline.map((row) => [row.id, row.response]));
      const judgements = candidate.map(({ id, prompt, response }) => ({
        item_id: id,
        outcome: judge(prompt, response, byId.get(id)!),
        length_candidate: response.length,
        length_baseline: byId.get(id)!.length,
      }));
      return request('POST', '/v1/win-rates', { judgements });
    },
    ({ win_rate }) => percent(win_rate),
  );
  return report(reward.result, win, recipe, edits);
}

interface RunResult {
  model_id: string;
  // biome-ignore lint/suspicious/noExplicitAny: each kind of run has its own result, described in the OpenAPI document
  result: any;
  artifacts: { name: string; digest: string }[];
}

/** Queues a run and follows it to its end. */
async function runToEnd(
  client: Client,
  kind: string,
  spec: object,
  report: (progress: StageProgress) => void,
  signal: AbortSignal,
): Promise<RunResult> {
  let run = await client.request('POST', '/v1/runs', { kind, spec });
  while (!['succeeded', 'failed', 'cancelled'].includes(run.state)) {
    if (signal.aborted) {
      await client.request('POST', `/v1/runs/${run.id}/cancel`); // else the next start would go on with it
      throw new Error('interrupted');
    }
    await sleep(250);
    run = await client.request('GET', `/v1/runs/${run.id}`);
    const { progress } = run;
    report({
      note: progress?.stage ?? run.state,
      fraction: progress?.fraction,
      etaSeconds: progress?.eta_seconds,
    });
  }
  if (run.state !== 'succeeded') {
    const { reason, detail, log_tail = [] } = run.failure ?? { reason: run.state, detail: '' };
    throw new Error(
      `The ${kind} run ${run.id} ${run.state}: ${reason}. ${detail}\n${log_tail.slice(-20).join('\n')}`,
    );
  }
  return run;
}

async function showScores(client: Client, model: string, seed: number): Promise<void> {
  say(
    '\nScores token by token (POST /v1/score); the redder, the likelier an annotator would edit the token away:',
  );
  const unseen = pairRows(seed + 1_000_000, 2);
  for (const { prompt, response_a, response_b } of unseen) {
    const { results } = await client.request('POST', '/v1/score', {
      model,
      prompt,
      responses: [response_a, response_b],
    });
    say(`\n  ${prompt}`);
    for (const { tokens, rewards, reward } of results)
      say(`  ${reward.toFixed(2).padStart(7)}  ${colourTokens(tokens, rewards, -2.5)}`);
  }
  say('');
}

interface Figure {
  value: number;
  low: number;
  high: number;
}

interface RewardReport {
  test: {
    edit_accuracy: Figure & { n: number };
    pair_accuracy: Figure & { n: number };
    bad_token_auc: Figure & { edits: number };
  };
}

interface WinRate {
  win_rate: number;
  confidence_interval: { low: number; high: number; method: string };
  n: number;
}

/** Prints the table; true when the gate is passed. */
function report(
  { test }: RewardReport,
  win: WinRate,
  recipe: Recipe,
  edits: { edited: number; pairs: number },
): boolean {
  const { low, high, method } = win.confidence_interval;
  const passed =
    test.pair_accuracy.value >= gate.pair_accuracy &&
    test.bad_token_auc.value >= gate.bad_token_auc &&
    low > 0.5;
  const figure = ({ value, low, high }: Figure, count: string): string =>
    `${value.toFixed(3)}  [${low.toFixed(3)}, ${high.toFixed(3)}]  ${count}`;
  say('\nResult (held-out test prompts, 95 % intervals)');
  printTable([
    ['edits', `${edits.edited} of ${edits.pairs} pairs`],
    ['edit_accuracy', figure(test.edit_accuracy, `n = ${test.edit_accuracy.n} edits`)],
    [
      'pair_accuracy',
      figure(test.pair_accuracy, `n = ${test.pair_accuracy.n} pairs  gate ≥ ${gate.pair_accuracy}`),
    ],
    [
      'bad_token_auc',
      figure(test.bad_token_auc, `n = ${test.bad_token_auc.edits} edits  gate ≥ ${gate.bad_token_auc}`),
    ],
    [
      'win rate, PPO over start',
      `${percent(win.win_rate)}  [${percent(low)}, ${percent(high)}] ${method}  n = ${win.n}  gate: interval above 50 %`,
    ],
  ]);
  say('\nSeconds per stage');
  printTable(stageTimes.map(({ name, seconds }) => [name, seconds.toFixed(1)]));
  printTable([['total', stageTimes.reduce((sum, { seconds }) => sum + seconds, 0).toFixed(1)]]);
  if (recipe.leavesOut) say(`\nQuick run: ${recipe.leavesOut}.`);
  say(passed ? '\nGate passed.' : '\nGate missed: see the figures above.');
  say(
    'The interval is over prompts only: one draw of the data and one training seed (--seed N draws another).',
  );
  return passed;
}

const percent = (fraction: number): string => `${(fraction * 100).toFixed(1)} %`;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean', default: false },
      keep: { type: 'boolean', default: false },
      seed: { type: 'string', default: '1' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return say(usage);
  const seed = Number(values.seed);
  if (!Number.isInteger(seed) || seed < 0)
    throw new Error(`--seed takes a whole number, not ${values.seed}.`);

  const interrupt = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'disconnect'] as const) process.on(name, () => interrupt.abort());
  const service = await stage(
    'Start the service (Postgres, API, worker, runner)',
    startService,
    ({ url }) => url,
  );
  try {
    const client = createClient(service.url, service.key);
    const recipe = values.quick ? quickRecipe : fullRecipe;
    const loop = runLoop(client, service, { recipe, seed }, interrupt.signal);
    const passed = await Promise.race([loop, untilAborted(interrupt.signal)]);
    if (passed === undefined) {
      await Promise.race([loop.catch(() => {}), sleep(3000)]); // it cancels the run that it waits for
      say('\nInterrupted.');
      process.exitCode = 130;
      return;
    }
    if (!passed) process.exitCode = 1;
    if (values.keep) {
      say(`\nThe service stays up: ${service.url}/docs   key: ${service.key}   Ctrl-C ends it.`);
      await untilAborted(interrupt.signal);
    } else {
      say(
        '\nNext: fine-tune the starting policy on the edited responses (an sft run with data {snapshot_id, responses: "edited"}). In this\n' +
          'world that alone does better than PPO from the start, and PPO from there better still (docs/experiments.md).\n' +
          'npm run demo -- --keep leaves the service up for /docs; npm start serves pairs of your own (README).',
      );
    }
  } catch (error) {
    throw new Error(`${(error as Error).message}\nThe log of the service: ${service.logFile}`);
  } finally {
    await service.stop();
  }
}

function untilAborted(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    signal.addEventListener('abort', () => resolve(undefined), { once: true });
  });
}

main().then(
  () => process.exit(),
  (error: Error) => {
    process.stderr.write(`\n${error.message}\n`);
    process.exit(1);
  },
);
