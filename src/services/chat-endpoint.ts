// One call of a chat endpoint that speaks OpenAI's protocol (POST …/chat/completions), and what its answer means for the
// work: an answer, a moment that may pass, a request that it does not want, or an endpoint that serves nobody.
import { type ChatChoice, lacksLogprobs } from '../domain/chat-answers.ts';
import { readRetryAfter } from '../domain/retry-after.ts';
import type { OutgoingAnswer, OutgoingClient } from '../outgoing/client.ts';
import { excerptOf, routeOf, withoutKey } from '../outgoing/endpoint.ts';
import { OutgoingError, type OutgoingErrorCode, outgoingErrors } from '../outgoing/errors.ts';

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface ChatCall {
  baseUrl: string;
  /** null: no Authorization header */
  key: string | null;
  model: string;
  messages: ChatMessage[];
  temperature: number | null;
  maxTokens: number;
  /** how many alternatives of each token to answer with their log probabilities; null: no probabilities */
  topLogprobs: number | null;
  /** newer models of some endpoints know the second name only */
  limitName: 'max_tokens' | 'max_completion_tokens';
  timeoutMs: number;
  signal: AbortSignal;
}

export type ChatOutcome =
  | { kind: 'answer'; choice: ChatChoice; usage: { input: number; output: number } | null }
  /** `charged`: the endpoint may have worked for it */
  | { kind: 'trouble'; detail: string; retryAfterSeconds: number | null; charged: boolean }
  /** of this request, perhaps: others may be taken */
  | { kind: 'refused'; detail: string; otherLimitName: boolean }
  | { kind: 'unusable'; reason: 'credentials' | 'endpoint'; detail: string; charged: boolean };

const maxAnswerBytes = 4_000_000;

export const chatUrl = (baseUrl: string): string => routeOf(baseUrl, '/chat/completions');

/** @throws the reason of the signal */
export async function callChat(outgoing: OutgoingClient, call: ChatCall): Promise<ChatOutcome> {
  const { key, model, messages, temperature, maxTokens, topLogprobs, limitName, timeoutMs, signal } = call;
  try {
    const answer = await outgoing.request(chatUrl(call.baseUrl), {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
      },
      body: JSON.stringify({
        model,
        messages,
        [limitName]: maxTokens,
        ...(temperature === null ? {} : { temperature }),
        ...(topLogprobs === null ? {} : { logprobs: true, top_logprobs: topLogprobs }),
      }),
      timeoutMs,
      maxAnswerBytes,
      signal,
    });
    return judge(answer, call);
  } catch (error) {
    if (!(error instanceof OutgoingError)) throw error;
    return judgeError(error.code);
  }
}

/** Only the code: the message may name addresses inside the operator's network. */
function judgeError(code: OutgoingErrorCode): ChatOutcome {
  const detail = `${code}: ${outgoingErrors[code]}.`;
  if (code === 'refused_address') return { kind: 'unusable', reason: 'endpoint', detail, charged: false };
  const charged = ['timed_out', 'broken_answer', 'too_large'].includes(code);
  return { kind: 'trouble', detail, retryAfterSeconds: null, charged };
}

function judge(
  { status, headers, body }: OutgoingAnswer,
  { key, limitName, topLogprobs }: ChatCall,
): ChatOutcome {
  const text = withoutKey(body.toString('utf8'), key);
  if (status >= 200 && status < 300) {
    const answer = readCompletion(text);
    if (answer && topLogprobs !== null && lacksLogprobs(answer.choice)) {
      const detail = 'The endpoint answers no log probabilities (`top_logprobs`).';
      return { kind: 'unusable', reason: 'endpoint', detail, charged: true };
    }
    if (answer) return { kind: 'answer', ...answer };
    const detail = `The endpoint does not answer as a chat completion endpoint: ${excerptOf(text, key)}`;
    return { kind: 'trouble', detail, retryAfterSeconds: null, charged: true };
  }
  const detail = `The endpoint answered ${status}: ${excerptOf(text, key)}`;
  if ([408, 409, 425, 429].includes(status) || status >= 500) {
    const retryAfterSeconds = readRetryAfter([headers['retry-after']].flat()[0], Date.now());
    return { kind: 'trouble', detail, retryAfterSeconds, charged: false };
  }
  if ([400, 413, 422].includes(status)) {
    const otherLimitName = limitName === 'max_tokens' && text.includes('max_completion_tokens');
    return { kind: 'refused', detail, otherLimitName };
  }
  if (status === 401 || status === 403)
    return { kind: 'unusable', reason: 'credentials', detail, charged: false };
  return { kind: 'unusable', reason: 'endpoint', detail, charged: false };
}

function readCompletion(
  text: string,
): { choice: ChatChoice; usage: { input: number; output: number } | null } | null {
  let parsed: Completion | null;
  try {
    parsed = JSON.parse(text);
  } catch {
    return null;
  }
  const choice = parsed?.choices?.[0];
  if (typeof choice?.message !== 'object' || choice.message === null) return null;
  const { content, refusal } = choice.message;
  const input = parsed?.usage?.prompt_tokens;
  const output = parsed?.usage?.completion_tokens;
  return {
    choice: { content, refusal, finishReason: choice.finish_reason, logprobs: choice.logprobs },
    usage: isCount(input) && isCount(output) ? { input, output } : null,
  };
}

/** As far as it is read; nothing of it is known to be so. */
interface Completion {
  choices?: {
    message?: { content?: unknown; refusal?: unknown } | null;
    finish_reason?: unknown;
    logprobs?: unknown;
  }[];
  usage?: { prompt_tokens?: unknown; completion_tokens?: unknown } | null;
}

const isCount = (value: unknown): value is number =>
  Number.isInteger(value) && (value as number) >= 0 && (value as number) < 1e9;
