// The worker at an evaluation, for a slice of time under a lease (migration 0022): makes the items once all responses are
// there, and judges by a reward model. Each batch of verdicts is saved before the next is begun, and a verdict is saved
// once, so that the next slice, after whatever ended this one, goes on with what is open.
import { v7 as uuidv7 } from 'uuid';
import * as db from '../db/evaluations.ts';
import * as judgements from '../db/judgements.ts';
import type { ModelRow } from '../db/models.ts';
import type { Transaction } from '../db/pool.ts';
import { Problem } from '../errors.ts';
import type { ServedModel } from '../scoring/engine.ts';
import type { Services } from './context.ts';
import { BadResponses, maxJudgements, readItems, storeItems } from './evaluation-responses.ts';
import {
  type AskedJudge,
  cancelOwnRuns,
  type EvaluationFailure,
  type EvaluationInputs,
  type EvaluationRequest,
  lockOwnRuns,
} from './evaluations.ts';
import { startLlmJudge, wantedOfLlm } from './llm-judges.ts';
import type { Prompt } from './pair-rows.ts';
import { type FailedItem, type RewardedItem, type ScoreItem, scoreItems } from './scoring.ts';
import { usualTimes, workInSlice } from './work-slice.ts';

export type EvaluationServices = Pick<Services, 'db' | 'artifacts' | 'scoring'>;

interface Work {
  services: EvaluationServices;
  slice: db.EvaluationSlice;
  request: EvaluationRequest;
  inputs: EvaluationInputs;
  endsAt: number;
  /** the evaluation was cancelled, the slice lost, or the worker is to stop */
  stop: AbortSignal;
  lost: AbortController;
}

/**
 * Works for a slice of time on an evaluation that is due. Safe to call at any time, by several workers at once.
 * @returns what to log, null when there is nothing
 */
export async function evaluationSlice(
  services: EvaluationServices,
  key: db.EvaluationKey,
  signal: AbortSignal,
  times = usualTimes,
): Promise<string | null> {
  const begun = await services.db.transaction(key.projectId, (tx) =>
    db.beginSlice(tx, key, times.leaseSeconds),
  );
  if (!begun) return null;
  const slice = { ...key, fence: begun.fence };
  const inTransaction = <T>(act: (tx: Transaction) => Promise<T>): Promise<T> =>
    services.db.transaction(key.projectId, act);
  return workInSlice(
    {
      name: `the evaluation ${key.evaluationId}`,
      renew: () => inTransaction((tx) => db.renewSlice(tx, slice, times.leaseSeconds)),
      async work(stop, lost, endsAt) {
        const request = begun.request as EvaluationRequest;
        const inputs = begun.inputs as EvaluationInputs;
        const work = { services, slice, request, inputs, endsAt, stop, lost };
        await (begun.state === 'preparing' ? prepare(work) : judge(work));
      },
      end: ({ restSeconds, troubles }) =>
        inTransaction((tx) => db.endSlice(tx, slice, { restSeconds, troubles: troubles ?? begun.troubles })),
      failureOf,
      giveUp: (failure) =>
        inTransaction(async (tx) => {
          await lockOwnRuns(tx, key.evaluationId);
          if (await db.failEvaluation(tx, slice, failure))
            await cancelOwnRuns(tx, key.projectId, key.evaluationId);
        }),
    },
    { troubles: begun.troubles, times, signal },
  );
}

/** A run that was to write responses has ended without them. */
class RunFailed extends Error {}

/** null: trouble that may pass */
function failureOf(error: unknown): EvaluationFailure | null {
  if (error instanceof RunFailed) return { reason: 'run_failed', detail: error.message };
  if (error instanceof BadResponses) return { reason: 'bad_responses', detail: error.message };
  if (error instanceof Problem && error.code === 'unprocessable')
    return { reason: 'judge_refused', detail: error.message };
  return null;
}

/** Makes items and judgements, all or none. @throws RunFailed, BadResponses */
async function prepare(work: Work): Promise<void> {
  const { services, slice, request, inputs } = work;
  const runs = await services.db.transaction(slice.projectId, async (tx) => {
    await db.lockEvaluation(tx, slice.evaluationId); // a run that ends now wakes it after this transaction
    const runs = await db.selectEvaluationRuns(tx, [slice.evaluationId]);
    if (!failedOf(runs) && runs.some(({ state }) => state !== 'succeeded'))
      await db.endSlice(tx, slice, { restSeconds: null, troubles: 0 });
    return runs;
  });
  const failed = failedOf(runs);
  if (failed) {
    const { name } = [request.baseline, ...request.candidates][failed.responder]!;
    throw new RunFailed(`The run that was to write the responses of ${name} has ended as ${failed.state}.`);
  }
  if (runs.some(({ state }) => state !== 'succeeded')) return;
  const items = await readItems(services.artifacts, { ...inputs, runs });
  checkCount(items.length, request);
  work.stop.throwIfAborted();
  await services.db.transaction(slice.projectId, async (tx) => {
    await db.lockEvaluation(tx, slice.evaluationId);
    await storeItems(tx, slice, items);
    await judgements.insertWanted(tx, slice, {
      first: uuidv7(),
      candidates: request.candidates.length,
      wanted:
        request.judge.kind === 'llm'
          ? await wantedOfLlm(tx, slice.evaluationId)
          : wantedOf(request.judge, inputs),
    });
    if (request.people)
      await judgements.insertWanted(tx, slice, {
        first: uuidv7(),
        candidates: request.candidates.length,
        wanted: wantedOf({ kind: 'person', ...request.people }, inputs),
        sample: request.people.items ?? items.length,
      });
    const due = request.judge.kind === 'reward';
    if (!(await db.startJudging(tx, slice, { items: items.length, due })))
      throw new Error('The slice was lost.');
    if (request.judge.kind === 'llm') await startLlmJudge(tx, slice);
    await db.settleEvaluation(tx, slice); // where there is nothing to judge
  });
}

/** All are made in one transaction, and looked through for the figures. @throws BadResponses */
function checkCount(items: number, { candidates, judge, people }: EvaluationRequest): void {
  const ofJudge = judge.kind === 'reward' ? 1 : judge.kind === 'llm' ? 2 : judge.per_item!;
  const ofPeople = people ? people.per_item * Math.min(people.items ?? items, items) : 0;
  const count = candidates.length * (items * ofJudge + ofPeople);
  if (count > maxJudgements)
    throw new BadResponses(
      `${candidates.length} candidates on ${items} items are ${count} judgements; one evaluation has ${maxJudgements} at most. Make several, of fewer items or candidates each.`,
    );
}

const failedOf = (runs: db.EvaluationRunRow[]): db.EvaluationRunRow | undefined =>
  runs.find(({ state }) => state === 'failed' || state === 'cancelled');

function wantedOf(
  judge: Exclude<AskedJudge, { kind: 'llm' }>,
  { model }: EvaluationInputs,
): judgements.Wanted[] {
  if (judge.kind === 'reward') return [{ judgeKind: 'reward', judgeName: model!.id, candidateFirst: null }];
  const one: judgements.Wanted = {
    judgeKind: judge.kind,
    judgeName: null,
    candidateFirst: judge.kind === 'person' ? 'drawn' : null,
  };
  return Array.from({ length: judge.per_item! }, () => one);
}

const pairsAtATime = 32;

/** By a reward model. */
async function judge(work: Work): Promise<void> {
  const { services, slice, endsAt, stop, lost } = work;
  for (;;) {
    const open = await services.db.transaction(slice.projectId, (tx) =>
      judgements.selectOpen(tx, slice, pairsAtATime),
    );
    const verdicts = open.length === 0 ? [] : await compare(work, open);
    stop.throwIfAborted();
    const goesOn = await services.db.transaction(slice.projectId, async (tx) => {
      const row = await db.lockEvaluation(tx, slice.evaluationId);
      if (row?.state !== 'judging') return false;
      await judgements.judgeOpen(tx, slice, verdicts);
      await db.settleEvaluation(tx, slice);
      return true;
    });
    if (!goesOn) lost.abort();
    if (open.length === 0 || !goesOn) return;
    if (Date.now() >= endsAt)
      return services.db.transaction(slice.projectId, (tx) =>
        db.endSlice(tx, slice, { restSeconds: 0, troubles: 0 }),
      );
  }
}

/** The response with the higher reward wins: the total of its tokens, EOS included, or what a sequence model gives the whole. */
async function compare(
  { services, request, inputs, stop }: Work,
  open: judgements.OpenJudgement[],
): Promise<(judgements.Verdict & { id: string })[]> {
  const model = inputs.model!;
  const items: ScoreItem[] = [];
  const places = new Map<string, number>(); // several candidates have one baseline
  const placeOf = (prompt: Prompt, response: string): number => {
    const key = JSON.stringify([prompt, response]);
    const place = places.get(key) ?? items.push({ prompt, response }) - 1;
    places.set(key, place);
    return place;
  };
  const pairs = open.map(({ prompt, response, baseline }) => ({
    candidate: placeOf(prompt as Prompt, response),
    baseline: placeOf(prompt as Prompt, baseline),
  }));
  const served: ServedModel = { digest: model.digest, files: model.files };
  const scores = await scoreItems(services, served, items, { include_eos: true }, stop);
  const margin = request.judge.kind === 'reward' ? request.judge.tie_margin! : 0;
  const worths = scores.map((score) => ('status' in score ? score : worthOf(score, model.role)));
  return open.map(({ id }, index) => ({
    id,
    ...verdictOf(worths[pairs[index]!.candidate]!, worths[pairs[index]!.baseline]!, margin),
  }));
}

type Worth = number | FailedItem;

function verdictOf(candidate: Worth, baseline: Worth, margin: number): judgements.Verdict {
  const failed = [candidate, baseline].find((worth) => typeof worth !== 'number');
  if (failed) return { outcome: null, nullReason: failed.code, detail: { detail: failed.detail } };
  const [reward_candidate, reward_baseline] = [candidate as number, baseline as number];
  const difference = reward_candidate - reward_baseline;
  const outcome = Math.abs(difference) <= margin ? 0.5 : difference > 0 ? 1 : 0;
  return { outcome, nullReason: null, detail: { reward_candidate, reward_baseline } };
}

/** A sequence model says at the end of a response what it is worth. */
const worthOf = ({ rewards }: RewardedItem, role: ModelRow['role']): number =>
  role === 'sequence_reward' ? rewards.at(-1)! : rewards.reduce((sum, reward) => sum + reward, 0);
