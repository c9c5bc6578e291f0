// The whole loop over HTTP, as an outside user would run it: pairs, edits, reward models, scores, policies, win rates.
// Fine-tuning on the edits, DPO on them, sequence PPO and fine-grained PPO start from one snapshot and are judged on the same
// prompts.
// Its world (examples/world) has a hidden scorer, which serves the annotators and the judge, never training.
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type Client, createClient } from './client.ts';
import { annotateAll } from './demo/annotators.ts';
import { compareArms, evaluationsOf } from './demo/comparison.ts';
import { collectEnvironment } from './demo/environment.ts';
import type { Estimate, ReportData, RewardModelFigures } from './demo/report/data.ts';
import { renderReport } from './demo/report.ts';
import { artifactRows, type FinishedRun, type RunRequest, runAll } from './demo/runs.ts';
import { type Service, startService } from './demo/service.ts';
import { colourTokens, printTable, say, stage, stageTimes } from './demo/terminal.ts';
import { fullRecipe, quickRecipe, type Recipe } from './recipe.ts';
import { carefulRows, demonstrationRows, editRow, pairRows, promptRows } from './world/data.ts';

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
    'Edit (three annotators claim tasks over HTTP)',
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
  const run = <Name extends string>(
    name: string,
    requests: Record<Name, RunRequest>,
    summary: (runs: Record<Name, FinishedRun>) => string,
  ): Promise<Record<Name, FinishedRun>> =>
    stage(name, (report) => runAll(client, requests, report, signal), summary);

  const { start } = await run(
    'Starting policy',
    {
      start: {
        kind: 'sft',
        spec: {
          seed,
          base_model: recipe.sft.base_model,
          data: { demonstrations: demonstrations.digest },
          hyperparameters: recipe.sft.hyperparameters,
        },
      },
    },
    () => 'learned from noisy demonstrations',
  );
  const startModel = { model_id: start.model_id };

  const rewardSpec = {
    seed,
    base_model: startModel,
    snapshot_id: snapshot.id,
  };
  const models = await run(
    'Reward models and SFT on edits',
    {
      'token rewards': {
        kind: 'reward',
        spec: {
          ...rewardSpec,
          hyperparameters: recipe.fineGrained.reward,
          gate,
          alias: 'token-reward',
          name: 'demo-token-reward',
        },
      },
      'sequence rewards': {
        kind: 'reward',
        spec: {
          ...rewardSpec,
          hyperparameters: recipe.sequence.reward,
          loss: 'seq_edits',
          name: 'demo-sequence-reward',
        },
      },
      'SFT on edits': {
        kind: 'sft',
        spec: {
          seed,
          base_model: startModel,
          data: { snapshot_id: snapshot.id, responses: 'edited' },
          hyperparameters: recipe.sftOnEdits.hyperparameters,
          name: 'demo-sft-on-edits',
        },
      },
    },
    (runs) =>
      `gate ${runs['token rewards'].result.gate.passed ? 'passed, alias token-reward moved' : 'missed, alias not moved'}`,
  );
  const tokenRewards = models['token rewards'];
  const examples = await showScores(client, tokenRewards.model_id, seed);

  const sftOnEdits = models['SFT on edits'];
  const onEdits = await run(
    'DPO on the edits and sequence PPO, each from SFT on edits',
    {
      'DPO on edits': {
        kind: 'dpo',
        spec: {
          seed,
          policy: { model_id: sftOnEdits.model_id },
          snapshot_id: snapshot.id,
          hyperparameters: recipe.dpo.hyperparameters,
          name: 'demo-dpo-on-edits',
        },
      },
      'sequence PPO': ppoRequest(
        sftOnEdits,
        models['sequence rewards'],
        recipe.sequence.ppo,
        'demo-sequence-ppo',
      ),
      'starting policy': generateRequest(start, seed + 1),
      'SFT on edits': generateRequest(sftOnEdits, seed),
    },
    () => 'two policies more',
  );
  const dpo = onEdits['DPO on edits'];
  const fineGrained = await run(
    'Fine-grained PPO, from SFT on edits and from DPO',
    {
      'fine-grained PPO': ppoRequest(
        sftOnEdits,
        tokenRewards,
        recipe.fineGrained.ppo,
        'demo-fine-grained-ppo',
      ),
      'DPO, fine-grained PPO': ppoRequest(
        dpo,
        tokenRewards,
        recipe.fineGrained.ppo,
        'demo-dpo-fine-grained-ppo',
      ),
      'DPO on edits': generateRequest(dpo, seed),
    },
    () => `${recipe.evaluationPrompts} responses to unseen prompts by each policy`,
  );
  function ppoRequest(
    policy: FinishedRun,
    rewardModel: FinishedRun,
    hyperparameters: Recipe['sequence']['ppo'],
    name: string,
  ): RunRequest {
    return {
      kind: 'ppo',
      spec: {
        seed,
        policy: { model_id: policy.model_id },
        reward_model: { model_id: rewardModel.model_id },
        prompts: { snapshot_id: snapshot.id, split: 'train' },
        evaluation: { prompts: { prompts: prompts.digest }, every: 4, kl_reference: startModel },
        hyperparameters: { ...recipe.ppo.hyperparameters, ...hyperparameters },
        name,
      },
    };
  }
  function generateRequest(policy: FinishedRun, generateSeed: number): RunRequest {
    return {
      kind: 'generate',
      spec: {
        seed: generateSeed,
        model: { model_id: policy.model_id },
        prompts: { prompts: prompts.digest },
        kl_reference: startModel,
        hyperparameters: recipe.generate.hyperparameters,
      },
    };
  }

  const comparison = await stage(
    'Judge (external) and win rates',
    async () => {
      const trained = async (name: string, run: FinishedRun, description: string) => {
        const evaluations = evaluationsOf(await artifactRows(client, run, 'evaluations.ndjson'));
        const { responses, samples } = evaluations.at(-1)!;
        return { name, description, samples, responses, evaluations };
      };
      const sampled = async (name: string, run: FinishedRun, description: string) => ({
        name,
        description,
        samples: 0,
        responses: await artifactRows(client, run, 'responses.ndjson'),
      });
      return compareArms(
        client,
        await Promise.all([
          sampled('starting policy', onEdits['starting policy'], 'Learned from demonstrations with defects'),
          sampled(
            'SFT on edits',
            onEdits['SFT on edits'],
            'Starting policy, fine-tuned on the edited responses',
          ),
          trained(
            'sequence PPO',
            onEdits['sequence PPO'],
            'SFT on edits, then PPO with one reward at the end of each response',
          ),
          trained(
            'fine-grained PPO',
            fineGrained['fine-grained PPO'],
            'SFT on edits, then PPO with a reward for each token',
          ),
          sampled(
            'DPO on edits',
            fineGrained['DPO on edits'],
            'SFT on edits, then DPO of the edited over the original responses',
          ),
          trained(
            'DPO, fine-grained PPO',
            fineGrained['DPO, fine-grained PPO'],
            'DPO on edits, then PPO with a reward for each token',
          ),
        ]),
        carefulRows(seed, recipe.evaluationPrompts, 'evaluation'),
      );
    },
    () => 'by the hidden score, which no model has seen',
  );

  const trainedRuns: Record<string, FinishedRun> = {
    'starting policy': start,
    ...models,
    'DPO on edits': dpo,
    'sequence PPO': onEdits['sequence PPO'],
    'fine-grained PPO': fineGrained['fine-grained PPO'],
    'DPO, fine-grained PPO': fineGrained['DPO, fine-grained PPO'],
  };
  const data: ReportData = {
    headline: { candidate: 'fine-grained PPO', baseline: 'sequence PPO' },
    judge:
      'The judge is the demo world’s hidden score (minus one for each defect); annotators see it through noise, training never does.',
    ...comparison,
    ...examples,
    reward_models: [
      figuresOf('token reward model', tokenRewards),
      figuresOf('sequence reward model', models['sequence rewards']),
    ],
    gate: tokenRewards.result.gate.checks,
    reliability: [
      'Preferences are the majority of five noisy votes, which agree with the hidden score in 91 % of pairs: a perfect reward model would reach that pair_accuracy.',
      'The labels of edited tokens come from a noisy editor; labels of a perfect one would find them with a bad_token_auc of about 0.95.',
    ],
    made: {
      date: new Date(),
      seed,
      recipe: recipe.leavesOut ? 'quick' : 'full',
      leaves_out: recipe.leavesOut,
      sizes: {
        pairs: edits.pairs,
        edits: edits.edited,
        demonstrations: recipe.demonstrations,
        'evaluation prompts': recipe.evaluationPrompts,
      },
      hyperparameters: Object.fromEntries(
        Object.entries(trainedRuns).map(([name, { kind, spec }]) => [
          `${name} (${kind})`,
          { ...(spec.loss ? { loss: spec.loss } : {}), ...spec.hyperparameters },
        ]),
      ),
      stages: stageTimes,
      environment: await collectEnvironment(service.python),
      digests: {
        snapshot: snapshot.digest,
        ...(await digestsOf(client, trainedRuns)),
      },
    },
  };
  const reportFile = join(service.dataDir, 'demo-report.html');
  await writeFile(reportFile, await renderReport(data));
  return printResult(data, reportFile);
}

async function digestsOf(client: Client, runs: Record<string, FinishedRun>): Promise<Record<string, string>> {
  const digests = Object.entries(runs).map(async ([name, { model_id }]) => {
    const { digest } = await client.request('GET', `/v1/models/${model_id}`);
    return [name, digest] as const;
  });
  return Object.fromEntries(await Promise.all(digests));
}

function figuresOf(name: string, { result }: FinishedRun): RewardModelFigures {
  const { edit_accuracy, pair_accuracy, bad_token_auc } = result.test;
  return {
    name,
    loss: result.loss,
    edit_accuracy,
    pair_accuracy,
    bad_token_auc: bad_token_auc.value === null ? null : { ...bad_token_auc, n: bad_token_auc.edits },
  };
}

/** Scores of unseen responses and of unseen edits, printed and kept for the report. */
async function showScores(
  client: Client,
  model: string,
  seed: number,
): Promise<Pick<ReportData, 'heat_map' | 'edits'>> {
  say(
    '\nScores token by token (POST /v1/score); the redder, the likelier an annotator would edit the token away:',
  );
  const unseen = pairRows(seed + 1_000_000, 3);
  const heat_map: ReportData['heat_map'] = [];
  const edits: ReportData['edits'] = [];
  for (const pair of unseen) {
    const { prompt, response_a, response_b, preference } = pair;
    const responses = preference === 'a' ? [response_a, response_b] : [response_b, response_a];
    const { results } = await client.request('POST', '/v1/score', { model, prompt, responses });
    say(`\n  ${prompt}`);
    for (const { tokens, rewards, reward } of results)
      say(`  ${reward.toFixed(2).padStart(7)}  ${colourTokens(tokens, rewards, -2.5)}`);
    heat_map.push({
      prompt,
      responses: [
        { label: 'preferred by the annotators', ...results[0] },
        { label: 'the other response', ...results[1] },
      ],
    });
    const [original, edited] = [responses[1]!, editRow(seed, pair)?.edited_response];
    if (edited === undefined || edits.length === 2) continue;
    const comparison = await client.request('POST', '/v1/score/compare', { model, prompt, original, edited });
    edits.push({ prompt, original, edited, comparison });
  }
  say('');
  return { heat_map, edits };
}

/** Prints the table; true when the gate is passed. */
function printResult(data: ReportData, reportFile: string): boolean {
  const { arms, head_to_head, reward_models, made } = data;
  say('\nReward models (held-out test prompts, 95 % intervals)');
  printTable(
    reward_models.flatMap((model): [string, string][] => [
      [`${model.name}: edit_accuracy`, accuracy(model.edit_accuracy, 'edits')],
      [`${model.name}: pair_accuracy`, accuracy(model.pair_accuracy, 'pairs')],
      ...(model.bad_token_auc
        ? [[`${model.name}: bad_token_auc`, accuracy(model.bad_token_auc, 'edits')] as [string, string]]
        : []),
    ]),
  );
  say('\nWin rates (unseen prompts, 95 % intervals over prompts), KL and tokens a response');
  printTable(
    arms.map(({ name, win_rate_over_start, win_rate_over_writers, kl, mean_length }) => [
      name,
      `over the start ${win_rate_over_start ? rate(win_rate_over_start) : '–'.padEnd(23)}  over careful writers ${rate(win_rate_over_writers)}  KL ${Math.max(0, kl).toFixed(1)}  ${mean_length.toFixed(0)} tokens`,
    ]),
  );
  say('');
  const trained = head_to_head.filter(({ baseline }) => baseline !== arms[0]!.name);
  printTable(
    trained.map(({ candidate, baseline, win_rate }) => [`${candidate} over ${baseline}`, rate(win_rate)]),
  );
  say('\nSeconds per stage');
  printTable(made.stages.map(({ name, seconds }) => [name, seconds.toFixed(1)]));
  printTable([['total', made.stages.reduce((sum, { seconds }) => sum + seconds, 0).toFixed(1)]]);
  if (made.leaves_out) say(`\nQuick run: ${made.leaves_out}.`);
  const fineGrained = arms.find(({ name }) => name === data.headline.candidate)!;
  const passed = data.gate.every((check) => check.passed) && fineGrained.win_rate_over_start!.low > 0.5;
  say(
    `\nGate ${passed ? 'passed' : 'missed'}: ${data.gate.map(({ metric, minimum }) => `${metric} ≥ ${minimum}`).join(', ')}, fine-grained PPO over the start with its interval above 50 %.`,
  );
  say(
    'Intervals are over the prompts of one draw with one training seed (--seed N draws another); bench/RESULTS.md has several draws.',
  );
  say(`\nThe report: ${reportFile}`);
  return passed;
}

const percent = (fraction: number): string => `${(fraction * 100).toFixed(1)} %`;
const rate = ({ value, low, high }: Estimate): string =>
  `${percent(value)} [${percent(low)}, ${percent(high)}]`;
const accuracy = ({ value, low, high, n }: Estimate, of: string): string =>
  `${value.toFixed(3)}  [${low.toFixed(3)}, ${high.toFixed(3)}]  n = ${n} ${of}`;

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
