// What an evaluation asks of its llm judge: a chat endpoint, and how it is to judge.
import type { EvaluationKey } from '../db/evaluations.ts';
import type { Wanted } from '../db/judgements.ts';
import { judgeEqualResponses } from '../db/llm-judgements.ts';
import * as db from '../db/llm-work.ts';
import type { Transaction } from '../db/pool.ts';
import { unprocessable } from '../errors.ts';
import type { Caller, Services } from './context.ts';
import {
  addLlmWork,
  completeSettings,
  type LlmSettings,
  type NewLlm,
  type RenderedLlmWork,
  renderLlmWork,
  resumeLlmWork,
} from './llm-work.ts';

/** How often each pair of responses is judged. */
export const judgeOrders = {
  both: 'twice, each of them first once; what a preference for a place adds to one is taken from the other',
  random: 'once, in an order that is drawn for each',
} as const;

export const judgeModes = {
  verdict: 'the model says which response is better, or that neither is, after a few sentences why',
  logprobs:
    'the model answers one letter, and `outcome` is P(candidate) / (P(candidate) + P(baseline)); the endpoint must answer `top_logprobs`',
} as const;

/** Of the judge beside the endpoint. */
export interface JudgeSettings {
  orders: keyof typeof judgeOrders;
  mode: keyof typeof judgeModes;
  ties: boolean;
  instructions: string | null;
}

export type LlmJudgeSettings = LlmSettings & JudgeSettings;

export type NewLlmJudge = NewLlm & Partial<JudgeSettings>;

/**
 * In the transaction that makes the evaluation. The judge waits until it is started.
 * @throws Problem unprocessable, with pointers under /judge; missing_scope
 */
export async function addLlmJudge(
  services: Pick<Services, 'outgoing' | 'secretKeys'>,
  tx: Transaction,
  caller: Caller,
  evaluationId: string,
  input: NewLlmJudge,
): Promise<void> {
  const { price, limits, temperature = 0, orders = 'both', mode = 'verdict', instructions = null } = input;
  if (mode === 'logprobs') checkLogprobs(input);
  const settings: LlmJudgeSettings = {
    ...completeSettings({ ...input, temperature }),
    orders,
    mode,
    ties: mode === 'verdict' && (input.ties ?? true),
    instructions,
  };
  const work = { for: { evaluationId }, settings, price, limits, waits: true };
  await addLlmWork(services, tx, caller, work, '/judge');
}

function checkLogprobs({ ties, max_tokens }: NewLlmJudge): void {
  if (ties)
    throw unprocessable('/judge/ties', 'is for the mode "verdict": probabilities are equal by themselves.');
  if (max_tokens !== undefined && max_tokens !== null)
    throw unprocessable(
      '/judge/max_tokens',
      'is for the mode "verdict": one token answers the mode "logprobs".',
    );
}

/** Under which its judgements stand. */
export async function nameOfLlm(tx: Transaction, evaluationId: string): Promise<string> {
  const [row] = await db.selectLlmWork(tx, [evaluationId]);
  return (row!.settings as LlmJudgeSettings).model;
}

/** What it judges of each pair of responses. */
export async function wantedOfLlm(tx: Transaction, evaluationId: string): Promise<Wanted[]> {
  const [row] = await db.selectLlmWork(tx, [evaluationId]);
  const { model, orders } = row!.settings as LlmJudgeSettings;
  const places = orders === 'both' ? [true, false] : (['drawn'] as const);
  return places.map((candidateFirst) => ({ judgeKind: 'llm', judgeName: model, candidateFirst }));
}

/** When the items and their judgements are there. */
export async function startLlmJudge(tx: Transaction, key: EvaluationKey): Promise<void> {
  await judgeEqualResponses(tx, key);
  await db.startLlmWork(tx, { projectId: key.projectId, id: key.evaluationId });
}

/** Breaks off what is under way, within a heartbeat; of an evaluation that was cancelled. */
export const cancelLlmJudge = (tx: Transaction, evaluationId: string): Promise<void> =>
  db.cancelLlmWork(tx, evaluationId);

/** @throws Problem conflict, unprocessable, missing_scope */
export const resumeLlmJudge = (
  tx: Transaction,
  caller: Caller,
  evaluationId: string,
  limits: db.Limits | null,
): Promise<void> => resumeLlmWork(tx, caller, evaluationId, limits, '/judge');

export const renderLlmJudge = (row: db.LlmWorkRow | undefined): RenderedLlmWork<LlmJudgeSettings> =>
  renderLlmWork(row);
