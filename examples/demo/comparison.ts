// The arms against each other: responses of each policy to the same prompts, judged by the hidden score and turned into
// win rates by the API.
import type { Client } from '../client.ts';
import { judge } from '../world/annotators.ts';
import type { Estimate, ReportData } from './report/data.ts';

/** A response as `responses.ndjson` and `evaluations.ndjson` have it; `kl` to the starting policy. */
export interface ArmResponse {
  id: string;
  prompt: string;
  response: string;
  token_ids: number[];
  kl: number;
}

export interface TrainedArm {
  name: string;
  description: string;
  samples: number;
  /** one for each prompt, in the order of the prompts */
  responses: ArmResponse[];
  /** from the start of PPO to its end; the last is what `responses` holds */
  evaluations?: { samples: number; responses: ArmResponse[] }[];
}

export type Comparison = Pick<ReportData, 'arms' | 'head_to_head' | 'learning_curves'>;

/** @param arms the first is the starting policy */
export async function compareArms(
  client: Client,
  arms: TrainedArm[],
  writers: { response: string }[],
): Promise<Comparison> {
  const winRate = (candidate: ArmResponse[], baseline: { response: string }[]): Promise<Estimate> =>
    computeWinRate(client, candidate, baseline);
  const [start, ...others] = arms;
  const pairs = arms.flatMap((baseline, index) =>
    arms.slice(index + 1).map((candidate) => ({ candidate, baseline })),
  );
  return {
    arms: await Promise.all(
      arms.map(async ({ name, description, samples, responses }) => ({
        name,
        description,
        win_rate_over_start:
          responses === start!.responses ? null : await winRate(responses, start!.responses),
        win_rate_over_writers: await winRate(responses, writers),
        kl: mean(responses.map(({ kl }) => kl)),
        mean_length: mean(responses.map(({ token_ids }) => token_ids.length)),
        samples,
      })),
    ),
    head_to_head: await Promise.all(
      pairs.map(async ({ candidate, baseline }) => ({
        candidate: candidate.name,
        baseline: baseline.name,
        win_rate: await winRate(candidate.responses, baseline.responses),
      })),
    ),
    learning_curves: await Promise.all(
      others.flatMap(({ name, evaluations }) =>
        evaluations
          ? [
              Promise.all(
                evaluations.map(async ({ samples, responses }) => ({
                  samples,
                  kl: mean(responses.map(({ kl }) => kl)),
                  win_rate: await winRate(responses, writers),
                })),
              ).then((points) => ({ arm: name, points })),
            ]
          : [],
      ),
    ),
  };
}

async function computeWinRate(
  client: Client,
  candidate: ArmResponse[],
  baseline: { response: string }[],
): Promise<Estimate> {
  const judgements = candidate.map(({ id, prompt, response }, index) => ({
    item_id: id,
    outcome: judge(prompt, response, baseline[index]!.response),
  }));
  const { win_rate, confidence_interval, n } = await client.request('POST', '/v1/win-rates', { judgements });
  return { value: win_rate, low: confidence_interval.low, high: confidence_interval.high, n };
}

/** The rows of `evaluations.ndjson`, one group for each step. */
export function evaluationsOf(
  rows: (ArmResponse & { step: number; samples: number; kl_to_reference: number })[],
): NonNullable<TrainedArm['evaluations']> {
  const groups = new Map<number, NonNullable<TrainedArm['evaluations']>[number]>();
  for (const { step, samples, kl_to_reference, ...row } of rows) {
    if (!groups.has(step)) groups.set(step, { samples, responses: [] });
    groups.get(step)!.responses.push({ ...row, kl: kl_to_reference });
  }
  return [...groups.values()];
}

const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;
