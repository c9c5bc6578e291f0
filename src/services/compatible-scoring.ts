// Rewards for clients of other servers: vLLM's pooling API and OpenRLHF's reward server. Both hand over whole texts, in
// which nothing says where a response begins, so a text is not laid out in the model's prompt format: it stands behind
// BOS as it is, and control tokens that it spells are text.
import {
  type MessageRole,
  type PromptFormat,
  type PromptPart,
  renderPrompt,
} from '../domain/prompt-format.ts';
import { Problem, type ProblemDetail, unprocessable } from '../errors.ts';
import type { ModelTokenizer, Sequence } from '../scoring/engine.ts';
import type { Caller, Services } from './context.ts';
import { findScoringModel } from './scoring.ts';

/** More than of POST /v1/score: such a client cannot be told to send less at a time. */
export const maxCompatibleItems = 1024;

interface EncodedText extends Sequence {
  /** of both; more than there are ids when it is too long */
  tokenCount: number;
}

/** Null is what is not given. */
export interface PoolingRequest {
  model?: string | null;
  input?: string | string[] | number[] | number[][];
  messages?: PooledMessage[];
  add_special_tokens?: boolean | null;
  add_generation_prompt?: boolean | null;
  continue_final_message?: boolean | null;
  truncate_prompt_tokens?: number | null;
  truncation_side?: 'left' | 'right' | null;
}

interface PooledMessage {
  role: MessageRole;
  content: string | { text: string }[];
}

/** What is scored as one: a text, token ids, or a conversation. */
type Pooled = string | number[] | PooledMessage[];

/** The rewards of all tokens of each text, BOS included. @throws as scoreResponses; unprocessable when one cannot be scored */
export async function poolTokens(
  services: Services,
  caller: Caller,
  request: PoolingRequest,
  signal: AbortSignal,
): Promise<Float32Array[]> {
  const { texts, pointer } = readTexts(request);
  return scoreAll(services, caller, request.model ?? undefined, signal, pointer, async (tokenizer) => {
    const encoded: EncodedText[] = [];
    for (const text of texts) {
      signal.throwIfAborted();
      encoded.push(await encodePooled(tokenizer, text, request));
    }
    return encoded;
  });
}

type Pointer = (index: number) => string;

/** @throws Problem unprocessable unless there is exactly one form */
function readTexts({ input, messages }: PoolingRequest): { texts: Pooled[]; pointer: Pointer } {
  if (messages && input !== undefined)
    throw unprocessable('/messages', 'cannot be given together with input');
  if (messages) return { texts: [messages], pointer: () => '/messages' };
  if (input === undefined) {
    const detail = 'needs either input or messages';
    throw new Problem('unprocessable', `The body ${detail}.`, {
      errors: [{ pointer: '', detail, in: 'body' }],
    });
  }
  if (typeof input === 'string' || isTokenIds(input)) return { texts: [input], pointer: () => '/input' };
  return { texts: input, pointer: (index) => `/input/${index}` };
}

const isTokenIds = (values: readonly unknown[]): values is number[] => typeof values[0] === 'number';

async function encodePooled(
  tokenizer: ModelTokenizer,
  text: Pooled,
  request: PoolingRequest,
): Promise<EncodedText> {
  const { contextLength, promptFormat } = tokenizer;
  const most = request.truncate_prompt_tokens ?? null;
  const keepsLast = most !== null && request.truncation_side !== 'right';
  const ids: number[] = [];
  let tokenCount = 0;
  for (const part of partsOf(text, promptFormat, request)) {
    const given =
      'ids' in part
        ? { tokenIds: part.ids, tokenCount: part.ids.length }
        : await tokenizer.encodeResponse(part.text, keepsLast ? Number.POSITIVE_INFINITY : contextLength);
    for (const id of given.tokenIds) ids.push(id);
    tokenCount += given.tokenCount;
  }
  const limit = most === -1 ? contextLength : (most ?? tokenCount);
  const responseIds =
    tokenCount <= limit ? ids : keepsLast ? ids.slice(ids.length - limit) : ids.slice(0, limit);
  return { promptIds: [], responseIds, tokenCount: Math.min(tokenCount, limit) };
}

function partsOf(text: Pooled, format: PromptFormat, request: PoolingRequest): PromptPart[] {
  if (typeof text === 'string') {
    const bos = (request.add_special_tokens ?? true) ? format.bos : [];
    return [{ ids: bos }, { text }];
  }
  if (isTokenIds(text)) return [{ ids: text }];
  const messages = text.map(({ role, content }) => ({
    role,
    content: typeof content === 'string' ? content : content.map((part) => part.text).join(''),
  }));
  if (request.add_generation_prompt) return renderPrompt(format, messages);
  return renderPrompt(format, messages, request.continue_final_message ? 'content' : 'message');
}

export interface RewardRequest {
  query: string[];
  prompts?: (string | null)[] | null;
}

/**
 * One reward for each query: the sum over its tokens, without those of its prompt where that is given and begins the query,
 * since a token reward model has never learnt to judge prompts.
 * @throws as poolTokens
 */
export async function rewardQueries(
  services: Services,
  caller: Caller,
  { query, prompts }: RewardRequest,
  signal: AbortSignal,
): Promise<number[]> {
  if (prompts && prompts.length !== query.length)
    throw unprocessable('/prompts', `has ${prompts.length} items, and query has ${query.length}`);
  const pointer: Pointer = (index) => `/query/${index}`;
  const rewards = await scoreAll(services, caller, undefined, signal, pointer, async (tokenizer) => {
    const known = new Map<string, ReturnType<typeof encodeBehindBos>>(); // the same ids: work on them is shared
    const encoded: EncodedText[] = [];
    for (const [index, text] of query.entries()) {
      signal.throwIfAborted();
      const given = prompts?.[index] ?? '';
      const prompt = text.startsWith(given) ? given : '';
      if (!known.has(prompt)) known.set(prompt, encodeBehindBos(tokenizer, prompt));
      const before = await known.get(prompt)!;
      const rest = await tokenizer.encodeResponse(text.slice(prompt.length), tokenizer.contextLength);
      encoded.push({
        promptIds: before.ids,
        responseIds: rest.tokenIds,
        tokenCount: before.tokenCount + rest.tokenCount,
      });
    }
    return encoded;
  });
  return rewards.map((values) => values.reduce((sum, value) => sum + value, 0));
}

async function encodeBehindBos(tokenizer: ModelTokenizer, text: string) {
  const { bos } = tokenizer.promptFormat;
  const { tokenIds, tokenCount } = await tokenizer.encodeResponse(text, tokenizer.contextLength);
  return { ids: [...bos, ...tokenIds], tokenCount: bos.length + tokenCount };
}

/** The answers of these servers have no place for the error of one text: all are scored, or none is. */
async function scoreAll(
  services: Services,
  caller: Caller,
  model: string | undefined,
  signal: AbortSignal,
  pointer: Pointer,
  encode: (tokenizer: ModelTokenizer) => Promise<EncodedText[]>,
): Promise<Float32Array[]> {
  const row = await services.db.transaction(caller.projectId, (tx) => findScoringModel(services, tx, model));
  const tokenizer = await services.scoring.tokenizer(row);
  const encoded = await encode(tokenizer);
  refuse(
    encoded.map(({ tokenCount }) =>
      tokenCount > tokenizer.contextLength
        ? `too_long: it has ${tokenCount} tokens, and the model reads ${tokenizer.contextLength}`
        : null,
    ),
    pointer,
  );
  const scores = await services.scoring.score(row, encoded, signal);
  const rewards: Float32Array[] = [];
  const failures = scores.map((score, index) => {
    if ('error' in score) return `${score.error.code}: ${score.error.detail}`;
    rewards[index] = score.rewards;
    return null;
  });
  refuse(failures, pointer);
  return rewards;
}

/** @param reasons null for what can be scored @throws Problem unprocessable unless everything can */
function refuse(reasons: (string | null)[], pointer: Pointer): void {
  const errors = reasons.flatMap((detail, index): ProblemDetail[] =>
    detail === null ? [] : [{ pointer: pointer(index), detail, in: 'body' }],
  );
  if (errors.length === 0) return;
  const [{ pointer: first, detail }] = errors as [ProblemDetail];
  throw new Problem('unprocessable', `${first} cannot be scored. ${detail}`, { errors });
}
