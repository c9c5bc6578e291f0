// Token rewards of responses. Items are encoded here, scored by the engine, and rendered as columns; what is wrong with
// one item stays with it.
import type { ModelRow } from '../db/models.ts';
import { formatId } from '../domain/ids.ts';
import { type Span, spansInUnit, type Unit } from '../domain/text.ts';
import { Problem } from '../errors.ts';
import type { EncodedResponse, ModelTokenizer, SequenceScore } from '../scoring/engine.ts';
import type { Caller, Services } from './context.ts';
import { findModel, scoringAlias, storedModel } from './models.ts';
import type { Prompt } from './pair-rows.ts';

export const maxScoreItems = 256;

export interface ScoreRequest {
  model?: string;
  prompt?: Prompt;
  responses?: string[];
  items?: ScoreItem[];
  unit?: Unit;
  truncate?: boolean;
  include_eos?: boolean;
}

export interface ScoreItem {
  prompt: Prompt;
  response: string;
}

export interface ScoredItem {
  status: 'ok';
  token_ids: number[];
  tokens: string[];
  offsets: Span[];
  rewards: number[];
  reward: number;
  mean_reward: number | null;
  prompt_token_count: number;
  truncated: boolean;
}

export const scoreErrorCodes = ['too_long', 'not_finite', 'model_failed'] as const;

export interface FailedItem {
  status: 'error';
  code: (typeof scoreErrorCodes)[number];
  detail: string;
}

export interface ScoreAnswer {
  model: { id: string; alias: string | null; digest: string; tokenizer_digest: string };
  unit: Unit;
  results: (ScoredItem | FailedItem)[];
}

interface EncodedItem {
  text: string;
  promptIds: number[];
  response: EncodedResponse;
  /** what is scored: the response's ids, and EOS where it was asked for and the whole response fits */
  responseIds: number[];
}

/** @throws Problem, among them overloaded when too much is queued; the signal's reason when it aborts */
export async function scoreResponses(
  services: Services,
  caller: Caller,
  request: ScoreRequest,
  signal: AbortSignal,
): Promise<ScoreAnswer> {
  const items = readItems(request);
  const model = await services.db.transaction(caller.projectId, (tx) => findScoringModel(tx, request.model));
  const { scoring } = services;
  const tokenizer = await scoring.tokenizer(storedModel(model));
  const encode = itemEncoder(tokenizer, request);
  const encoded: (EncodedItem | FailedItem)[] = [];
  for (const item of items) {
    signal.throwIfAborted();
    encoded.push(await encode(item)); // one after the other: encodings of large texts take much memory
  }
  const sequences = encoded.filter((item) => !('status' in item));
  const scores = (await scoring.score(storedModel(model), sequences, signal)).values();
  const unit = request.unit ?? 'utf16';
  return {
    model: {
      id: formatId('model', model.id),
      alias: request.model === formatId('model', model.id) ? null : (request.model ?? scoringAlias),
      digest: model.digest,
      tokenizer_digest: model.tokenizer_digest,
    },
    unit,
    results: encoded.map((item) =>
      'status' in item ? item : renderItem(item, scores.next().value!, unit),
    ),
  };
}
