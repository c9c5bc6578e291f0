// Token rewards of responses. Items are encoded here, scored by the engine, and rendered as columns; what is wrong with
// one item stays with it.
import type { ModelRow } from '../db/models.ts';
import type { Transaction } from '../db/pool.ts';
import { formatId } from '../domain/ids.ts';
import { type Span, spansInUnit, type Unit } from '../domain/text.ts';
import { Problem } from '../errors.ts';
import type {
  ModelTokenizer,
  Precision,
  SequenceScore,
  ServedModel,
  StoredModel,
} from '../scoring/engine.ts';
import type { Caller, Services } from './context.ts';
import { openDeadline, unlessAborted } from './deadlines.ts';
import { findModelByAlias, isShared, resolveModel, scoringAlias } from './models.ts';
import type { Prompt } from './pair-rows.ts';

export { precisions } from '../scoring/engine.ts';
export const maxScoreItems = 256;

export interface ScoreOptions {
  truncate?: boolean;
  include_eos?: boolean;
  /** fp32 unless said */
  precision?: Precision;
}

export interface ScoreRequest extends ScoreOptions {
  model?: string;
  prompt?: Prompt;
  responses?: string[];
  items?: ScoreItem[];
  unit?: Unit;
  deadline_ms?: number;
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

export interface NamedModel {
  id: string;
  /** that led to the model; null when it was named by its id */
  alias: string | null;
  /** the sample that ships with finegrain */
  shared: boolean;
  digest: string;
  tokenizer_digest: string;
}

export interface ScoringModel extends NamedModel {
  precision: Precision;
}

export interface ScoreAnswer {
  model: ScoringModel;
  unit: Unit;
  results: (ScoredItem | FailedItem)[];
}

export interface EncodedItem {
  text: string;
  promptIds: number[];
  /** of the response, with EOS where it was asked for and everything fits */
  responseIds: number[];
  /** of the response's own tokens, in UTF-16 */
  offsets: Span[];
  /** of the same tokens; overlap where tokens share a character */
  covers: Span[];
  truncated: boolean;
}

/** An item with its rewards, one for each of `responseIds`. */
export type RewardedItem = EncodedItem & { rewards: number[] };

/** @throws Problem, among them overloaded when too much is queued; the signal's reason when it aborts */
export async function scoreResponses(
  services: Services,
  caller: Caller,
  request: ScoreRequest,
  signal: AbortSignal,
): Promise<ScoreAnswer> {
  const items = readItems(request);
  const deadline = openDeadline(signal, request.deadline_ms ?? null);
  try {
    const model = await services.db.transaction(caller.projectId, (tx) =>
      findScoringModel(services, tx, request.model),
    );
    const scored = await scoreItems(services, model, items, request, deadline.signal);
    const unit = request.unit ?? 'utf16';
    return {
      model: renderScoringModel(services, model, request),
      unit,
      results: scored.map((item) => renderResult(item, unit)),
    };
  } finally {
    deadline.close();
  }
}

/** One result for each item, in order. @throws as scoreResponses */
export async function scoreItems(
  services: Pick<Services, 'scoring'>,
  model: ServedModel,
  items: readonly ScoreItem[],
  options: ScoreOptions,
  signal: AbortSignal,
): Promise<(RewardedItem | FailedItem)[]> {
  const encoded = await encodeItems(services, model, items, options, signal);
  const sequences = encoded.filter((item): item is EncodedItem => !('status' in item));
  const { precision } = options;
  const scores = (await services.scoring.score(model, sequences, signal, { precision })).values();
  return encoded.map((item) => ('status' in item ? item : withRewards(item, scores.next().value!)));
}

/** @throws Problem when the tokenizer cannot be used; the signal's reason */
export async function encodeItems(
  { scoring }: Pick<Services, 'scoring'>,
  model: StoredModel,
  items: readonly ScoreItem[],
  options: ScoreOptions,
  signal: AbortSignal,
): Promise<(EncodedItem | FailedItem)[]> {
  const encode = itemEncoder(await unlessAborted(signal, scoring.tokenizer(model)), options);
  const encoded: (EncodedItem | FailedItem)[] = [];
  for (const item of items) {
    signal.throwIfAborted();
    encoded.push(await encode(item)); // one after the other: encodings of large texts take much memory
  }
  return encoded;
}

export const withRewards = (item: EncodedItem, score: SequenceScore): RewardedItem | FailedItem =>
  'error' in score ? { status: 'error', ...score.error } : { ...item, rewards: Array.from(score.rewards) };

/** The items of either form. @throws Problem unprocessable unless it is exactly one of them */
export function readItems({ prompt, responses, items }: ScoreRequest): ScoreItem[] {
  const wrong = (pointer: string, detail: string): Problem =>
    new Problem('unprocessable', `${pointer || 'The body'} ${detail}.`, {
      errors: [{ pointer, detail, in: 'body' }],
    });
  if (items) {
    if (prompt !== undefined) throw wrong('/prompt', 'cannot be given together with items');
    if (responses) throw wrong('/responses', 'cannot be given together with items');
    return items;
  }
  if (prompt === undefined)
    throw wrong(
      '',
      responses ? 'has responses but no prompt' : 'needs either prompt and responses, or items',
    );
  if (!responses) throw wrong('/responses', 'is missing');
  return responses.map((response) => ({ prompt, response }));
}

/** The model that is named, else the one with the scoring alias. @throws Problem not_found, unprocessable */
export async function findScoringModel(
  services: Services,
  tx: Transaction,
  idOrAlias: string | undefined,
): Promise<ModelRow> {
  const model = await findNamedModel(services, tx, idOrAlias);
  if (model.role === 'token_reward') return model;
  throw new Problem(
    'unprocessable',
    `The model ${idOrAlias} has the role ${model.role}; only a token_reward model can score.`,
    {
      errors: [{ pointer: '/model', detail: `is a ${model.role} model`, in: 'body' }],
    },
  );
}

/** As findScoringModel, of any role. @throws Problem not_found */
export async function findNamedModel(
  services: Services,
  tx: Transaction,
  idOrAlias: string | undefined,
): Promise<ModelRow> {
  if (idOrAlias !== undefined) return resolveModel(services, tx, idOrAlias, '/model');
  const model = await findModelByAlias(services, tx, scoringAlias);
  if (model) return model;
  throw new Problem(
    'not_found',
    `No model carries the alias ${scoringAlias} yet. Train one with a run of the kind "reward" whose spec names this alias, or give a model the alias: PUT /v1/aliases/${scoringAlias}.`,
    {
      errors: [{ pointer: '/model', detail: `is not given, and there is no ${scoringAlias}`, in: 'body' }],
    },
  );
}

function itemEncoder(tokenizer: ModelTokenizer, { truncate = false, include_eos = false }: ScoreOptions) {
  const prompts = new Map<Prompt, Promise<number[]>>(); // responses of one request often share their prompt
  return async ({ prompt, response }: ScoreItem): Promise<EncodedItem | FailedItem> => {
    if (!prompts.has(prompt)) prompts.set(prompt, tokenizer.encodePrompt(prompt));
    const promptIds = await prompts.get(prompt)!;
    const place = Math.max(0, tokenizer.contextLength - promptIds.length);
    const encoded = await tokenizer.encodeResponse(response, place);
    const needed = encoded.tokenCount + (include_eos ? 1 : 0);
    const truncated = needed > place;
    if (truncated && (!truncate || place === 0))
      return tooLong(promptIds.length, needed, tokenizer.contextLength, truncate);
    const responseIds =
      include_eos && !truncated ? [...encoded.tokenIds, tokenizer.eosTokenId] : encoded.tokenIds;
    const { offsets, covers } = encoded;
    return { text: response, promptIds, responseIds, offsets, covers, truncated };
  };
}

function tooLong(
  promptTokens: number,
  responseTokens: number,
  contextLength: number,
  truncate: boolean,
): FailedItem {
  const advice = truncate
    ? 'The prompt leaves no room for a response; shorten it.'
    : 'Shorten it, or set truncate in POST /v1/score to score as many tokens of the response as there is room for.';
  return {
    status: 'error',
    code: 'too_long',
    detail: `The prompt has ${promptTokens} tokens and the response ${responseTokens}; the model reads ${contextLength} in all. ${advice}`,
  };
}

/** @param request names the model, and the mode if not the default one */
export const renderScoringModel = (
  services: Services,
  model: ModelRow,
  { model: named, precision = 'fp32' }: Pick<ScoreRequest, 'model' | 'precision'>,
): ScoringModel => ({ ...renderModel(services, model, named), precision });

/** @param named how the request names the model */
export function renderModel(services: Services, model: ModelRow, named: string | undefined): NamedModel {
  const id = formatId('model', model.id);
  return {
    id,
    alias: named === id ? null : (named ?? scoringAlias),
    shared: isShared(services, model),
    digest: model.digest,
    tokenizer_digest: model.tokenizer_digest,
  };
}

export const renderResult = (item: RewardedItem | FailedItem, unit: Unit): ScoredItem | FailedItem =>
  'status' in item ? item : renderItem(item, unit);

export function renderItem(item: RewardedItem, unit: Unit): ScoredItem {
  const { text, promptIds, responseIds, rewards, truncated } = item;
  const end = item.offsets.at(-1)?.[1] ?? 0;
  // EOS stands after the text
  const offsets = responseIds.map((_, position): Span => item.offsets[position] ?? [end, end]);
  const reward = rewards.reduce((sum, value) => sum + value, 0);
  return {
    status: 'ok',
    token_ids: responseIds,
    tokens: offsets.map(([from, to]) => text.slice(from, to)),
    offsets: spansInUnit(text, offsets, unit),
    rewards,
    reward,
    mean_reward: rewards.length === 0 ? null : reward / rewards.length,
    prompt_token_count: promptIds.length,
    truncated,
  };
}
