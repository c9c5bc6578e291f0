// Whose responses an evaluation compares, and where they come from: a policy that writes them in a `generate` run of the
// evaluation's own, a `generate` run of somebody's, a file, or the request itself. All become rows {id, prompt?, response}.
import { isDeepStrictEqual } from 'node:util';
import { selectArtifact } from '../db/artifacts.ts';
import { type EvaluationKey, type EvaluationRunRow, insertItems, type NewItem } from '../db/evaluations.ts';
import type { Transaction } from '../db/pool.ts';
import { selectRunsForShare } from '../db/runs.ts';
import { parseId } from '../domain/ids.ts';
import { hasEnded, type RunState } from '../domain/run-states.ts';
import { notFound, pointerToken, unprocessable } from '../errors.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import type { Prompt } from './pair-rows.ts';
import type { DataInput } from './run-inputs.ts';
import { promptsIn } from './run-preparation.ts';
import type { GenerateSpec } from './run-specs.ts';
import type { RunArtifact } from './runs.ts';
import { BadRow, promptRows, responseRows } from './training-rows.ts';

export const maxItems = 20_000;
export const maxCandidates = 8;
/** Of all candidates on all items, in both orders by an LLM. */
export const maxJudgements = 320_000;
/** Characters. */
export const maxItemId = 500;
/** Of all response sets of an evaluation, as they are held in memory while its items are made. */
export const maxResponseBytes = 256 * 1024 ** 2;

export interface ResponseRow {
  id: string;
  prompt?: Prompt;
  response: string;
}

/** Exactly one of `model`, `generate_run_id`, `artifact`, `responses`. */
export interface Responder {
  name: string;
  /** responders of one name that were trained with other seeds are one candidate */
  training_seed?: string | number;
  model?: GenerateSpec['model'];
  /** with `model` */
  seed?: number;
  hyperparameters?: GenerateSpec['hyperparameters'];
  generate_run_id?: string;
  artifact?: string;
  responses?: ResponseRow[];
}

/** What it stood for when the evaluation was made: a file, or the run at its place in `evaluation_runs`. */
export type ResponseSource = { rows: string } | { run: true };

const forms = ['model', 'generate_run_id', 'artifact', 'responses'] as const;

/** @throws Problem unprocessable unless exactly one form is there, and what belongs to it alone */
export function checkForm(responder: Responder, pointer: string): (typeof forms)[number] {
  const given = forms.filter((form) => responder[form] !== undefined);
  if (given.length !== 1)
    throw unprocessable(pointer, `needs exactly one of ${forms.join(', ')}, and has ${given.length}`);
  for (const option of ['seed', 'hyperparameters'] as const) {
    if (responder[option] !== undefined && responder.model === undefined)
      throw unprocessable(`${pointer}/${option}`, 'is for a model that writes the responses');
  }
  const seen = new Set<string>();
  for (const [index, { id }] of (responder.responses ?? []).entries()) {
    if (seen.has(id))
      throw unprocessable(
        `${pointer}/responses/${index}/id`,
        `comes twice: ${JSON.stringify(id)} has one response of a responder`,
      );
    seen.add(id);
  }
  return given[0]!;
}

/** @throws Problem not_found; unprocessable for a run of another kind, or one that has failed */
export async function findGenerateRun(
  tx: Transaction,
  id: string,
  pointer: string,
): Promise<{ runId: string; ended: boolean }> {
  const uuid = parseId('run', id);
  const [run] = uuid ? await selectRunsForShare(tx, [uuid]) : []; // it does not end while the evaluation is made
  if (!run) throw notFound('run', id, pointer);
  if (run.kind !== 'generate')
    throw unprocessable(pointer, `is a ${run.kind} run; responses come from a generate run`);
  const ended = hasEnded(run.state as RunState);
  if (ended && run.state !== 'succeeded')
    throw unprocessable(pointer, `has ended as ${run.state}; retry it first`);
  return { runId: run.id, ended };
}

const checkedRows = 1000;

/** @throws Problem not_found; unprocessable for a file that is too large, or whose first rows cannot be read */
export async function checkRowFile(
  tx: Transaction,
  artifacts: ArtifactStore,
  digest: string,
  read: typeof responseRows | typeof promptRows,
  pointer: string,
): Promise<void> {
  const artifact = await selectArtifact(tx, digest);
  if (!artifact) throw notFound('artifact', digest, pointer);
  if (artifact.bytes > maxResponseBytes)
    throw unprocessable(pointer, `has ${artifact.bytes} bytes; an evaluation reads ${maxResponseBytes}`);
  let rows = 0;
  try {
    for await (const _ of read(artifacts, digest)) if (++rows === checkedRows) break;
  } catch (error) {
    if (error instanceof BadRow) throw unprocessable(pointer, error.message);
    throw error;
  }
}

/** What is wrong with the responses of an evaluation that was accepted. */
export class BadResponses extends Error {}

export interface ItemSources {
  /** null: the prompts are those of the responses */
  prompts: { data: DataInput; split: string | null } | null;
  /** of the baseline, then of the candidates */
  sources: ResponseSource[];
  /** as they stand in `evaluation_runs`; all have succeeded */
  runs: EvaluationRunRow[];
}

/**
 * The items in the order of the prompts, or else in which the responders have them, the baseline first. A responder that
 * says nothing to an item has null there.
 * @throws BadResponses
 */
export async function readItems(
  artifacts: ArtifactStore,
  { prompts, sources, runs }: ItemSources,
): Promise<NewItem[]> {
  const items = new Map<string, { prompt: unknown; responses: (string | null)[] }>();
  const itemOf = (id: string, prompt: unknown) => {
    const known = items.get(id);
    if (known) return known;
    if (id === '' || id.length > maxItemId)
      throw new BadResponses(`An id has ${id.length} characters; it needs 1 to ${maxItemId}.`);
    if (items.size === maxItems) throw new BadResponses(`There are more than ${maxItems} items.`);
    const item = { prompt, responses: Array<string | null>(sources.length).fill(null) };
    items.set(id, item);
    return item;
  };
  const where = (responder: number): string => (responder === 0 ? 'The baseline' : `Candidate ${responder}`);
  try {
    if (prompts !== null)
      for await (const { id, prompt } of promptsOf(artifacts, prompts))
        if (!isDeepStrictEqual(itemOf(id, prompt).prompt, prompt))
          throw new BadResponses(`There are two prompts with the id ${JSON.stringify(id)}.`);
    let bytes = 0;
    for (const [responder, source] of sources.entries()) {
      const digest = 'rows' in source ? source.rows : responsesOf(runs, responder);
      for await (const row of responseRows(artifacts, digest)) {
        if (prompts !== null && !items.has(row.id)) continue; // the prompts say what is compared
        bytes += 2 * row.response.length;
        if (bytes > maxResponseBytes)
          throw new BadResponses(
            `The responses take more than ${maxResponseBytes} bytes; make several evaluations of them.`,
          );
        const item = itemOf(row.id, row.prompt);
        if (row.prompt !== undefined) {
          if (item.prompt !== undefined && !isDeepStrictEqual(item.prompt, row.prompt))
            throw new BadResponses(
              `${where(responder)} answers another prompt than others have under the id ${JSON.stringify(row.id)}.`,
            );
          item.prompt = row.prompt;
        }
        if (item.responses[responder] !== null)
          throw new BadResponses(`${where(responder)} has two responses to ${JSON.stringify(row.id)}.`);
        item.responses[responder] = row.response;
      }
    }
  } catch (error) {
    if (error instanceof BadRow) throw new BadResponses(`A response set cannot be read: ${error.message}.`);
    throw error;
  }
  return [...items].map(([item_id, { prompt, responses }]) => {
    if (prompt === undefined)
      throw new BadResponses(
        `No response set has the prompt of ${JSON.stringify(item_id)}. Give prompts, or rows with their prompt.`,
      );
    return { item_id, prompt, responses };
  });
}

const promptsOf = (artifacts: ArtifactStore, { data, split }: NonNullable<ItemSources['prompts']>) =>
  'rows' in data
    ? promptRows(artifacts, data.rows)
    : (promptsIn(artifacts, data, split as never) as AsyncIterable<{ id: string; prompt: unknown }>);

function responsesOf(runs: EvaluationRunRow[], responder: number): string {
  const run = runs.find((one) => one.responder === responder)!;
  return (run.artifacts as RunArtifact[]).find(({ name }) => name === 'responses.ndjson')!.digest;
}

const itemBatch = 500;

/** In the order that they have. */
export async function storeItems(tx: Transaction, key: EvaluationKey, items: NewItem[]): Promise<void> {
  for (let first = 0; first < items.length; first += itemBatch)
    await insertItems(tx, key, first + 1, items.slice(first, first + itemBatch));
}

/** The place of a responder in the request. */
export const responderPointer = (responder: number): string =>
  responder === 0 ? '/baseline' : `/candidates/${pointerToken(responder - 1)}`;
