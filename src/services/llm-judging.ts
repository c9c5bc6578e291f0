// The llm judge at work on one evaluation: shows a pair of responses, in the order that its judgement says, to a chat endpoint,
// and records the verdict. A judgement is recorded once: by whoever holds its lease, while its evaluation is judging.
import { randomBytes } from 'node:crypto';
import { type EvaluationKey, lockEvaluation, selectEvaluation, settleEvaluation } from '../db/evaluations.ts';
import type { Verdict } from '../db/judgements.ts';
import * as db from '../db/llm-judgements.ts';
import { type ChatChoice, type Fault, keptText } from '../domain/chat-answers.ts';
import { formatId } from '../domain/ids.ts';
import { readLetters, readVerdict } from '../domain/judge-answers.ts';
import { type JudgeWork, promptVersion, readJudgePrompt } from './judge-prompt.ts';
import type { LlmJudgeSettings } from './llm-judges.ts';
import type { LlmPrompt } from './llm-prompt.ts';
import {
  type Begun,
  type Item,
  isEndpointReason,
  type LlmServices,
  type Times,
  usualTimes,
  type Workload,
  workSlice,
} from './llm-slice.ts';
import type { Prompt } from './pair-rows.ts';

const usualMaxTokens = 2048; // a few sentences, and room for thoughts
const alternatives = 5; // what every endpoint with log probabilities answers
const keptExplanationLength = 10_000;

interface Judging extends Begun<LlmJudgeSettings> {
  services: LlmServices;
  key: EvaluationKey;
  promptOf: (work: JudgeWork) => LlmPrompt;
}

/**
 * Works for a slice of time on an evaluation that is due. Safe to call at any time, by several workers at once.
 * @returns what to log, null when there is nothing
 */
export const judgeSlice = (
  services: LlmServices,
  key: EvaluationKey,
  signal: AbortSignal,
  times: Times = usualTimes,
): Promise<string | null> =>
  workSlice<LlmJudgeSettings>(
    services,
    { projectId: key.projectId, id: key.evaluationId },
    async (begun) => workloadOf({ ...begun, services, key, promptOf: await readJudgePrompt(begun.settings) }),
    signal,
    times,
  );

const workloadOf = (work: Judging): Workload => ({
  name: `evaluation ${formatId('evaluation', work.key.evaluationId)}`,
  claim: () => claimNext(work),
  isLeft: async (tx) =>
    (await selectEvaluation(tx, work.key.evaluationId))?.state === 'judging' &&
    db.hasOpenJudgements(tx, work.key),
});

async function claimNext(work: Judging): Promise<Item | null> {
  const { services, key, times } = work;
  const lease = randomBytes(32);
  const row = await services.db.transaction(key.projectId, (tx) =>
    db.claimJudgement(tx, key, { lease, leaseSeconds: times.leaseSeconds }),
  );
  return row ? itemOf(work, row, { projectId: key.projectId, id: row.id, lease }) : null;
}

function itemOf(work: Judging, row: db.LeasedJudgement, held: db.JudgementLease): Item {
  const { services, settings } = work;
  const { projectId } = held;
  const [first, second] = row.candidate_first ? [row.response, row.baseline] : [row.baseline, row.response];
  const prompt = work.promptOf({ prompt: row.prompt as Prompt, first, second });
  const byLetter = settings.mode === 'logprobs';
  return {
    messages: prompt.messages,
    again: prompt.again,
    maxTokens: byLetter ? 1 : (settings.max_tokens ?? usualMaxTokens),
    topLogprobs: byLetter ? alternatives : null,
    take: async (choice) => {
      const read = byLetter
        ? readLetter(choice, row)
        : readSaid(choice, row, { mark: prompt.mark, ...settings });
      if ('fault' in read) return read.fault;
      await record(work, held, read);
      return null;
    },
    renew: () => services.db.transaction(projectId, (tx) => db.renewJudgement(tx, held)),
    giveBack: () => services.db.transaction(projectId, (tx) => db.releaseJudgement(tx, held)),
    fail: ({ fault, lastOutput }) =>
      record(work, held, {
        outcome: null,
        nullReason: isEndpointReason(fault.reason) ? fault.reason : 'unreadable',
        detail: { prompt_version: promptVersion, ...fault, last_output: lastOutput },
      }),
  };
}

type Read = Verdict | { fault: Fault };

function readSaid(
  choice: ChatChoice,
  row: db.LeasedJudgement,
  question: { mark: string; ties: boolean },
): Read {
  const read = readVerdict(choice, question);
  if ('fault' in read) return read;
  const explanation = keptText(read.explanation, keptExplanationLength);
  return {
    outcome: outcomeOf(row, read.first),
    nullReason: null,
    detail: { prompt_version: promptVersion, explanation },
  };
}

function readLetter(choice: ChatChoice, row: db.LeasedJudgement): Read {
  const read = readLetters(choice);
  if ('fault' in read) return read;
  const { first, second } = read.logprobs;
  const [candidate, baseline] = row.candidate_first ? [first, second] : [second, first];
  return {
    outcome: outcomeOf(row, read.first),
    nullReason: null,
    detail: { prompt_version: promptVersion, logprobs: { candidate, baseline } },
  };
}

const outcomeOf = ({ candidate_first }: db.LeasedJudgement, first: number): number =>
  candidate_first ? first : 1 - first;

/** Whoever records the last one ends the evaluation. */
const record = ({ services, key }: Judging, held: db.JudgementLease, verdict: Verdict): Promise<void> =>
  services.db.transaction(key.projectId, async (tx) => {
    const evaluation = await lockEvaluation(tx, key.evaluationId);
    if (evaluation?.state !== 'judging') return;
    await db.recordJudgement(tx, held, verdict);
    await settleEvaluation(tx, key);
  });
