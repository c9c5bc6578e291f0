// What an edit bought: both versions of a response scored, and the rewards added up over the segments of their alignment.
import { type Alignment, alignTexts, segmentsInUnit } from '../domain/alignment.ts';
import { type RewardDifference, type RewardedText, segmentRewards } from '../domain/segment-rewards.ts';
import type { Unit } from '../domain/text.ts';
import { Problem } from '../errors.ts';
import type { Precision } from '../scoring/engine.ts';
import type { Caller, Services } from './context.ts';
import { openDeadline } from './deadlines.ts';
import type { Prompt } from './pair-rows.ts';
import {
  type FailedItem,
  findScoringModel,
  type RewardedItem,
  renderItem,
  renderScoringModel,
  type ScoredItem,
  type ScoringModel,
  scoreItems,
} from './scoring.ts';

export interface ComparisonRequest {
  model?: string;
  prompt: Prompt;
  original: string;
  edited: string;
  unit?: Unit;
  precision?: Precision;
  deadline_ms?: number;
}

/** The sums at the top are of all segments and the end. */
export interface Comparison extends RewardDifference, Pick<Alignment, 'minimal' | 'warnings'> {
  model: ScoringModel;
  unit: Unit;
  segments: (Alignment['segments'][number] & RewardDifference)[];
  end: RewardDifference;
  /** With EOS as the last token. */
  original: ScoredItem;
  edited: ScoredItem;
}

/** @throws Problem, among them unprocessable when a side cannot be scored; the signal's reason when it aborts */
export async function compareVersions(
  services: Services,
  caller: Caller,
  request: ComparisonRequest,
  signal: AbortSignal,
): Promise<Comparison> {
  const deadline = openDeadline(signal, request.deadline_ms ?? null);
  try {
    return await compare(services, caller, request, deadline.signal);
  } finally {
    deadline.close();
  }
}

async function compare(
  services: Services,
  caller: Caller,
  { model: named, prompt, original, edited, unit = 'utf16', precision }: ComparisonRequest,
  signal: AbortSignal,
): Promise<Comparison> {
  const model = await services.db.transaction(caller.projectId, (tx) =>
    findScoringModel(services, tx, named),
  );
  const items = [original, edited].map((response) => ({ prompt, response }));
  const sides = requireBoth(
    await scoreItems(services, model, items, { include_eos: true, precision }, signal),
  );
  const alignment = alignTexts(original, edited);
  const rewards = segmentRewards(
    alignment.segments,
    rewardedText(sides.original),
    rewardedText(sides.edited),
  );
  const inUnit = segmentsInUnit(original, edited, alignment.segments, unit);
  const scored = { original: renderItem(sides.original, unit), edited: renderItem(sides.edited, unit) };
  return {
    model: renderScoringModel(services, model, { model: named, precision }),
    unit,
    segments: rewards.segments.map((segment, index) => ({ ...segment, ...inUnit[index]! })),
    end: rewards.end,
    ...scored,
    original_reward: scored.original.reward,
    edited_reward: scored.edited.reward,
    difference: scored.edited.reward - scored.original.reward,
    minimal: alignment.minimal,
    warnings: alignment.warnings,
  };
}

/** One side alone says nothing. @throws Problem unprocessable with a pointer to each side that failed */
function requireBoth(results: (RewardedItem | FailedItem)[]): {
  original: RewardedItem;
  edited: RewardedItem;
} {
  const [original, edited] = results as [RewardedItem | FailedItem, RewardedItem | FailedItem];
  if (!('status' in original) && !('status' in edited)) return { original, edited };
  const errors = Object.entries({ original, edited }).flatMap(([side, result]) =>
    'status' in result
      ? [{ pointer: `/${side}`, detail: `${result.code}: ${result.detail}`, in: 'body' as const }]
      : [],
  );
  throw new Problem('unprocessable', `${errors[0]!.pointer} cannot be scored. ${errors[0]!.detail}`, {
    errors,
  });
}

/** EOS, the last token, stands at the end of the text and covers none of it. */
function rewardedText({ text, covers, rewards }: RewardedItem): RewardedText {
  return { text, covers: [...covers, [text.length, text.length]], rewards };
}
