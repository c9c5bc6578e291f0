// Best-of-n: of n responses of a policy the one that a reward model likes best. No training, n times the price of an answer.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import type { Draw, EvaluatedResponse } from '../loop/draw.ts';
import type { Checkpoint } from '../loop/frontier.ts';
import { ppo } from '../loop/plan.ts';
import { modelOf, type Step, type TrainerSteps } from '../loop/trainer-steps.ts';

/** KL of best-of-n to the policy that it samples from, nats a response (an upper bound, reached without ties). */
export const klOfBest = (n: number): number => Math.log(n) - (n - 1) / n;

/**
 * What the judge says of the best of the first n responses to each prompt.
 * @param counts values of n; the last one is the largest
 */
export async function bestOfN(
  steps: TrainerSteps,
  draw: Draw,
  policy: Step,
  rewardModel: Step,
  counts: readonly number[],
): Promise<Checkpoint[]> {
  const most = counts.at(-1)!;
  const sampled = await steps.run('generate', `draw ${draw.seed}: ${most} responses to each prompt`, {
    seed: draw.seed + 5,
    model: modelOf(policy),
    kl_reference: modelOf(draw.start),
    data: {
      prompts: await steps.rows(
        `evaluation-${draw.seed}-times-${most}`,
        draw.evaluationPrompts.flatMap(({ id, prompt }) =>
          Array.from({ length: most }, (_, copy) => ({ id: `${id}/${copy}`, prompt })),
        ),
      ),
    },
    hyperparameters: { batch_size: 200, max_new_tokens: ppo.max_new_tokens },
  });
  const responses: EvaluatedResponse[] = await steps.read(sampled, 'responses.ndjson');
  const totals = await totalsOf(steps, sampled, policy, rewardModel);
  return counts.map((n) => {
    const best = draw.evaluationPrompts.map((_, prompt) => {
      let chosen = prompt * most;
      for (let at = chosen + 1; at < prompt * most + n; at++) if (totals[at]! > totals[chosen]!) chosen = at;
      const row = responses[chosen]!;
      return { ...row, kl: row.kl + klOfBest(n) };
    });
    return draw.judge(0, 0, best);
  });
}

async function totalsOf(
  steps: TrainerSteps,
  sampled: Step,
  policy: Step,
  rewardModel: Step,
): Promise<number[]> {
  const file = join(sampled.folder, `totals-${rewardModel.key}.ndjson`);
  if (!existsSync(file)) {
    await promisify(execFile)(
      steps.python,
      [
        'bench/pipeline/score_responses.py',
        join(rewardModel.folder, 'output/model'),
        join(policy.folder, 'output/model'),
        join(sampled.folder, 'output/responses.ndjson'),
        file,
      ],
      { env: { ...process.env, PYTHONPATH: resolve('runners'), PYTHONDONTWRITEBYTECODE: '1' } },
    );
  }
  return (await readFile(file, 'utf8')).trimEnd().split('\n').map(Number);
}
