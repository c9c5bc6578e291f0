// Judgements of an evaluation: those that the service asks for, and those that others bring along.
import * as evaluations from '../db/evaluations.ts';
import { lockJudge } from '../db/judgement-tasks.ts';
import * as db from '../db/judgements.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId } from '../domain/ids.ts';
import { Problem, unprocessable } from '../errors.ts';
import { ascendingUuid } from './ascending-uuid.ts';
import type { Caller, Services } from './context.ts';
import { type EvaluationRequest, findEvaluation, type ResponderSummary } from './evaluations.ts';
import { nameOfLlm } from './llm-judges.ts';
import { type Page, type PageRequest, readPage } from './paging.ts';

/** Why a judgement has no outcome: the service's own reasons; others give theirs. */
export const nullReasons = {
  no_response: 'the candidate or the baseline has no response to the item',
  too_long: 'prompt and response do not fit the reward model',
  not_finite: 'the reward model gave no finite number',
  model_failed: 'the reward model failed at this item',
  unreadable: 'the language model gave no verdict, asked twice; `detail` says what it gave',
  endpoint_refused: 'the chat endpoint takes other requests, and not the one for this item',
  endpoint_failed: 'the chat endpoint serves other requests, and failed at the one for this item each time',
} as const;

export const orders = ['candidate_first', 'baseline_first'] as const;
export type Order = (typeof orders)[number];

export interface Judgement {
  id: string;
  item_id: string;
  candidate: string;
  training_seed: string | number | null;
  state: db.JudgementState;
  judge: { kind: evaluations.JudgeKind; name: string | null };
  order: Order | null;
  outcome: number | null;
  null_reason: string | null;
  detail: object | null;
  judged_at: string | null;
}

export const orderOf = (candidateFirst: boolean | null): Order | null =>
  candidateFirst === null ? null : candidateFirst ? 'candidate_first' : 'baseline_first';

function renderWith({ candidates }: EvaluationRequest) {
  return (row: db.JudgementRow): Judgement => {
    const { name, training_seed = null } = candidates[row.candidate - 1]!;
    return {
      id: formatId('judgement', row.id),
      item_id: row.item_id,
      candidate: name,
      training_seed,
      state: row.state,
      judge: { kind: row.judge_kind, name: row.judge_name },
      order: orderOf(row.candidate_first),
      outcome: row.outcome,
      null_reason: row.null_reason,
      detail: row.detail as object | null,
      judged_at: row.judged_at?.toISOString() ?? null,
    };
  };
}

/** @throws Problem not_found */
export function listJudgements(
  { db: database, cursors }: Services,
  caller: Caller,
  id: string,
  request: PageRequest & { state?: db.JudgementState },
): Promise<Page<Judgement>> {
  return database.transaction(caller.projectId, async (tx) => {
    const { id: uuid, request: asked } = await findEvaluation(tx, id);
    return readPage(
      { cursors, tx, projectId: caller.projectId, list: `judgements of ${id}` },
      request,
      (page) => db.selectJudgements(tx, uuid, { ...page, state: request.state ?? null }),
      renderWith(asked as EvaluationRequest),
    );
  });
}

export interface NewJudgement {
  item_id: string;
  /** needed where there are several */
  candidate?: string;
  training_seed?: string | number;
  outcome: number | null;
  null_reason?: string | null;
  judge?: { kind?: 'person' | 'llm' | 'external'; name: string };
  order?: Order | null;
  comment?: string | null;
}

/**
 * Stores judgements, all or none. Those of the evaluation's own kind of judge fill the places that are open; others, people's
 * beside a reward model's, come on top and say how far the judge agrees with them. The same judgement again changes nothing.
 * @throws Problem not_found; unprocessable; conflict for an outcome that differs from the stored one, or before there are items
 */
export function addJudgements(
  { db: database }: Services,
  caller: Caller,
  id: string,
  posted: NewJudgement[],
): Promise<{ created: number; unchanged: number }> {
  return database.transaction(caller.projectId, async (tx) => {
    const evaluation = await findEvaluation(tx, id, evaluations.lockEvaluation);
    if (evaluation.items === null)
      throw new Problem(
        'conflict',
        `The evaluation is ${evaluation.state} and has no items yet. GET /v1/evaluations/${id} says when it has.`,
      );
    const key = { projectId: caller.projectId, evaluationId: evaluation.id };
    const llm = evaluation.judge === 'llm' ? await nameOfLlm(tx, evaluation.id) : null;
    const itemIds = [...new Set(posted.map(({ item_id }) => item_id))];
    const numbers = await evaluations.selectItemNumbers(tx, evaluation.id, itemIds);
    const people = posted.filter((one) => kindOf(evaluation, one) === 'person').map(nameOf);
    for (const name of [...new Set(people)].sort()) await lockJudge(tx, caller.projectId, name); // who may be claiming
    let created = 0;
    for (const [index, one] of posted.entries()) {
      const pointer = `/judgements/${index}`;
      const judgement = readPosted(evaluation, numbers, one, pointer);
      if (judgement.judgeKind === 'llm' && judgement.judgeName === llm)
        throw unprocessable(
          `${pointer}/judge/name`,
          `is this evaluation's own judge, ${JSON.stringify(llm)}, for whom nobody else speaks; give another name`,
        );
      if (await store(tx, key, evaluation, judgement, pointer)) created++;
    }
    await evaluations.settleEvaluation(tx, key);
    return { created, unchanged: posted.length - created };
  });
}

const kindOf = ({ judge }: evaluations.EvaluationRow, posted: NewJudgement): evaluations.JudgeKind =>
  posted.judge?.kind ?? (judge === 'person' ? 'person' : 'external');

const nameOf = ({ judge }: NewJudgement): string => judge?.name ?? 'external';

function readPosted(
  evaluation: evaluations.EvaluationRow,
  numbers: ReadonlyMap<string, number>,
  posted: NewJudgement,
  pointer: string,
): db.PostedJudgement {
  const { item_id, candidate, training_seed, outcome, null_reason, order, comment } = posted;
  if (outcome === null && !null_reason)
    throw unprocessable(`${pointer}/null_reason`, 'is needed: an outcome of null says why there is none');
  if (outcome !== null && null_reason)
    throw unprocessable(`${pointer}/null_reason`, 'is for an outcome of null');
  const number = numbers.get(item_id);
  if (number === undefined)
    throw unprocessable(
      `${pointer}/item_id`,
      `names no item of this evaluation: ${JSON.stringify(item_id)}. GET …/items lists them`,
    );
  return {
    id: ascendingUuid(),
    number,
    candidate: findCandidate(
      (evaluation.request as EvaluationRequest).candidates,
      candidate,
      training_seed,
      pointer,
    ),
    judgeKind: kindOf(evaluation, posted),
    judgeName: nameOf(posted),
    candidateFirst: order == null ? null : order === 'candidate_first',
    outcome,
    nullReason: null_reason ?? null,
    detail: comment == null ? null : { comment },
  };
}

/** @returns its number, from 1 */
function findCandidate(
  candidates: ResponderSummary[],
  name: string | undefined,
  seed: string | number | undefined,
  pointer: string,
): number {
  const fits = candidates.flatMap((one, index) =>
    (name === undefined || one.name === name) &&
    (seed === undefined || one.training_seed?.toString() === seed.toString())
      ? [index + 1]
      : [],
  );
  if (fits.length === 1) return fits[0]!;
  const names = candidates.map((one) =>
    [one.name, ...(one.training_seed === undefined ? [] : [one.training_seed])]
      .map((said) => JSON.stringify(said))
      .join(', '),
  );
  throw unprocessable(
    `${pointer}/candidate`,
    fits.length === 0
      ? `names no candidate of this evaluation; it has ${names.join('; ')}`
      : `must be said, with training_seed where names are equal: this evaluation has ${names.join('; ')}`,
  );
}

/** False when it is stored already. */
async function store(
  tx: Transaction,
  key: evaluations.EvaluationKey,
  { state }: evaluations.EvaluationRow,
  judgement: db.PostedJudgement,
  pointer: string,
): Promise<boolean> {
  const same = await db.selectSame(tx, key.evaluationId, judgement);
  if (same) {
    if (same.outcome === judgement.outcome && same.null_reason === judgement.nullReason) return false;
    if (same.state !== 'judged')
      throw new Problem(
        'conflict',
        `${pointer}: ${judgement.judgeName} has claimed this item in this order; submit it under its lease, or release it first.`,
        { errors: [{ pointer, detail: 'is claimed', in: 'body' }] },
      );
    throw new Problem(
      'conflict',
      `${pointer}: ${judgement.judgeName} has judged this item in this order before, as ${same.outcome ?? same.null_reason}; a judgement is not changed.`,
      { errors: [{ pointer, detail: 'differs from the stored judgement', in: 'body' }] },
    );
  }
  if (state === 'judging' && (await db.fillOpen(tx, key.evaluationId, judgement))) return true;
  await db.insertJudgement(tx, key, judgement);
  return true;
}
