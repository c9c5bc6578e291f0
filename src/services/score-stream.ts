// Token rewards as they come: each result leaves when it is there, whatever is still to be scored, and is rendered when
// the reader takes it.
import type { Unit } from '../domain/text.ts';
import type { SequenceScore, ServedModel } from '../scoring/engine.ts';
import type { Caller, Services } from './context.ts';
import { openDeadline } from './deadlines.ts';
import {
  type EncodedItem,
  encodeItems,
  type FailedItem,
  findScoringModel,
  type RewardedItem,
  readItems,
  renderResult,
  renderScoringModel,
  type ScoredItem,
  type ScoreOptions,
  type ScoreRequest,
  type ScoringModel,
  withRewards,
} from './scoring.ts';

/** What a stream says. `index` is the place of the response in the request; results come in any order. */
export type ScoreEvent =
  | { event: 'begin'; model: ScoringModel; unit: Unit; count: number }
  | ({ event: 'result'; index: number } & (ScoredItem | FailedItem))
  | { event: 'end'; ok: number; failed: number }
  /** in the place of the end: what broke off the work, and which responses have no result */
  | { event: 'problem'; error: unknown; ok: number; failed: number; unscored: number[] };

/**
 * Begins when the first response is scored: what goes wrong before is thrown, what goes wrong later is the last event.
 * @throws as scoreResponses
 */
export async function* streamScores(
  services: Services,
  caller: Caller,
  request: ScoreRequest,
  signal: AbortSignal,
): AsyncGenerator<ScoreEvent> {
  const items = readItems(request);
  const deadline = openDeadline(signal, request.deadline_ms ?? null);
  const unscored = new Set(items.keys());
  const counts = { ok: 0, failed: 0 };
  let begun = false;
  try {
    const model = await services.db.transaction(caller.projectId, (tx) =>
      findScoringModel(services, tx, request.model),
    );
    const encoded = await encodeItems(services, model, items, request, deadline.signal);
    const unit = request.unit ?? 'utf16';
    for await (const { index, item } of scoreInAnyOrder(services, model, encoded, request, deadline.signal)) {
      if (!begun) {
        begun = true;
        const named = renderScoringModel(services, model, request);
        yield { event: 'begin', model: named, unit, count: items.length };
      }
      const result = renderResult(item, unit);
      unscored.delete(index);
      counts[result.status === 'ok' ? 'ok' : 'failed']++;
      yield { event: 'result', index, ...result };
    }
    yield { event: 'end', ...counts };
  } catch (error) {
    if (!begun) throw error;
    yield { event: 'problem', error, ...counts, unscored: [...unscored] };
  } finally {
    deadline.close();
  }
}

interface Finished {
  index: number;
  item: RewardedItem | FailedItem;
}

/** What has failed before it could be scored comes with the first score. @throws as ScoringEngine.score */
async function* scoreInAnyOrder(
  { scoring }: Pick<Services, 'scoring'>,
  model: ServedModel,
  encoded: (EncodedItem | FailedItem)[],
  { precision }: ScoreOptions,
  signal: AbortSignal,
): AsyncGenerator<Finished> {
  const finished: Finished[] = [];
  const sequences: EncodedItem[] = [];
  const places: number[] = []; // of the sequences among all
  for (const [index, item] of encoded.entries()) {
    if ('status' in item) finished.push({ index, item });
    else places[sequences.push(item) - 1] = index;
  }
  let wake = (): void => {};
  const onScore = (position: number, score: SequenceScore): void => {
    finished.push({ index: places[position]!, item: withRewards(sequences[position]!, score) });
    wake();
  };
  const all = scoring.score(model, sequences, signal, { precision, onScore });
  const more = (): Promise<unknown> => Promise.race([new Promise<void>((resolve) => (wake = resolve)), all]);
  await more();
  for (let given = 0; ; ) {
    for (let next = finished.shift(); next; next = finished.shift(), given++) yield next;
    if (given === encoded.length) return;
    await more();
  }
}
