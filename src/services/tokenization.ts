// What a model reads of a text: tokens with their places. Of a text longer than the model's context only so many tokens
// are listed as it reads; all are counted.
import { renderPrompt } from '../domain/prompt-format.ts';
import { type Span, spansInUnit, type Unit } from '../domain/text.ts';
import { Problem } from '../errors.ts';
import type { ModelTokenizer } from '../scoring/engine.ts';
import type { Caller, Services } from './context.ts';
import type { Prompt } from './pair-rows.ts';
import { findNamedModel, type NamedModel, renderModel } from './scoring.ts';

/** in one answer */
export const maxListedTokens = 1_000_000;

export interface TokenizeRequest {
  model?: string;
  prompt?: Prompt;
  responses?: string[];
  unit?: Unit;
}

interface Tokens {
  token_count: number;
  token_ids: number[];
  tokens: string[];
  truncated: boolean;
}

/** As the model reads it before a response. Tokens of the prompt format belong to no message and have no offset. */
export interface TokenizedPrompt extends Tokens {
  messages: (number | null)[];
  offsets: (Span | null)[];
}

export interface TokenizedResponse extends Tokens {
  offsets: Span[];
}

export interface TokenizeAnswer {
  model: NamedModel;
  context_length: number;
  unit: Unit;
  prompt: TokenizedPrompt | null;
  responses: TokenizedResponse[];
}

/** @throws Problem not_found, unprocessable; the signal's reason when it aborts */
export async function tokenize(
  services: Services,
  caller: Caller,
  { model: named, prompt, responses = [], unit = 'utf16' }: TokenizeRequest,
  signal: AbortSignal,
): Promise<TokenizeAnswer> {
  if (prompt === undefined && responses.length === 0) {
    const detail = 'needs a prompt, responses or both';
    throw new Problem('unprocessable', `The body ${detail}.`, {
      errors: [{ pointer: '', detail, in: 'body' }],
    });
  }
  const model = await services.db.transaction(caller.projectId, (tx) => findNamedModel(services, tx, named));
  const tokenizer = await services.scoring.tokenizer(model);
  let listed = 0;
  const bounded = <T extends Tokens>(text: T): T => {
    listed += text.token_ids.length;
    if (listed <= maxListedTokens) return text;
    throw new Problem(
      'unprocessable',
      `The texts have more than ${maxListedTokens} tokens together. Send fewer of them at a time.`,
    );
  };
  const answer: TokenizeAnswer = {
    model: renderModel(services, model, named),
    context_length: tokenizer.contextLength,
    unit,
    prompt: prompt === undefined ? null : bounded(await tokenizePrompt(tokenizer, prompt, unit)),
    responses: [],
  };
  for (const response of responses) {
    signal.throwIfAborted();
    answer.responses.push(bounded(await tokenizeText(tokenizer, response, unit, tokenizer.contextLength)));
  }
  return answer;
}

/** @param limit of the tokens that are listed */
async function tokenizeText(
  tokenizer: ModelTokenizer,
  text: string,
  unit: Unit,
  limit: number,
): Promise<TokenizedResponse> {
  const { tokenCount, tokenIds, offsets } = await tokenizer.encodeResponse(text, limit);
  return {
    token_count: tokenCount,
    token_ids: tokenIds,
    tokens: offsets.map(([from, to]) => text.slice(from, to)),
    offsets: spansInUnit(text, offsets, unit),
    truncated: tokenCount > tokenIds.length,
  };
}

async function tokenizePrompt(
  tokenizer: ModelTokenizer,
  prompt: Prompt,
  unit: Unit,
): Promise<TokenizedPrompt> {
  const all: TokenizedPrompt = {
    token_count: 0,
    token_ids: [],
    tokens: [],
    messages: [],
    offsets: [],
    truncated: false,
  };
  let message = 0;
  for (const part of renderPrompt(tokenizer.promptFormat, prompt)) {
    const room = tokenizer.contextLength - all.token_ids.length;
    if ('ids' in part) {
      all.token_count += part.ids.length;
      for (const id of part.ids.slice(0, room)) add(all, id, '', null, null);
      continue;
    }
    const text = await tokenizeText(tokenizer, part.text, unit, room);
    all.token_count += text.token_count;
    for (const [at, id] of text.token_ids.entries())
      add(all, id, text.tokens[at]!, message, text.offsets[at]!);
    message++; // none is empty, so each has its part
  }
  all.truncated = all.token_count > all.token_ids.length;
  return all;
}

function add(
  { token_ids, tokens, messages, offsets }: TokenizedPrompt,
  id: number,
  token: string,
  message: number | null,
  offset: Span | null,
): void {
  token_ids.push(id);
  tokens.push(token);
  messages.push(message);
  offsets.push(offset);
}
