// A token reward model on a server that speaks vLLM's pooling API, for models that are too large to hold here: one request
// for each sequence, in token ids, and one number for each token in its answer. docs/adr/0028 says which versions were read.
// What a server computes may depend on what it batches together; golden.json says how far off it may be.
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { readRetryAfter } from '../domain/retry-after.ts';
import { Problem } from '../errors.ts';
import type { OutgoingAnswer, OutgoingClient } from '../outgoing/client.ts';
import { excerptOf, routeOf } from '../outgoing/endpoint.ts';
import { OutgoingError, outgoingErrors } from '../outgoing/errors.ts';
import { ModelRefused } from './model-json.ts';
import type { ModelServer } from './model-manifest.ts';
import type { Scorer, SequenceScore } from './scorer.ts';

/** What the engine needs for models that are served elsewhere. */
export interface ServerAccess {
  outgoing: OutgoingClient;
  /** A secret of the project, as a header can carry it. @throws Problem when it cannot be read */
  readKey(projectId: string, secret: string): Promise<string>;
}

/** Requests to the server of a model at a time. It makes batches of them, so one after the other would leave it idle. */
export const requestsAtOnce = 16;

const mostTries = 4;
const firstDelayMs = 500;
const longestWaitMs = 10_000; // whoever asks for more is told to our caller
const longestRetryAfterSeconds = 3600;

export const poolingUrl = ({ baseUrl }: ModelServer): string => routeOf(baseUrl, '/pooling');

/** `detail` goes on from "The server of the model". */
type Outcome =
  | { kind: 'numbers'; numbers: Float32Array }
  /** of this sequence: others may be taken */
  | { kind: 'refused'; detail: string }
  | { kind: 'credentials' | 'unusable'; detail: string }
  /** a moment that may pass. `internal` is for the log: it may name addresses inside the operator's network */
  | { kind: 'trouble'; detail: string; internal?: string; retryAfterSeconds: number | null };

/**
 * Asks nothing yet: the comparison with golden.json is the first that is sent.
 * @param readKey null for a server without a key; called again when the server does not take the key
 * @param answerLimitMs for each sequence, all tries together
 * @throws Problem of readKey
 */
export async function startHttpScorer(
  server: ModelServer,
  outgoing: OutgoingClient,
  readKey: (() => Promise<string>) | null,
  log: Logger,
  answerLimitMs: number,
): Promise<Scorer> {
  let key = readKey && (await readKey());
  let end = (): void => {};
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });

  async function ask(
    tokenIds: number[],
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Outcome> {
    try {
      const answer = await outgoing.request(poolingUrl(server), {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        },
        body: JSON.stringify({
          model: server.model,
          input: tokenIds,
          task: 'token_classify',
          encoding_format: 'float',
          use_activation: false, // whatever is made of logits is made here
        }),
        timeoutMs,
        maxAnswerBytes: 65_536 + 64 * tokenIds.length,
        ...(signal ? { signal } : {}),
      });
      return judge(answer, tokenIds.length, key);
    } catch (error) {
      if (!(error instanceof OutgoingError)) throw error;
      const detail = `cannot be asked (${error.code}): ${outgoingErrors[error.code]}`;
      if (error.code === 'refused_address') return { kind: 'unusable', detail };
      return { kind: 'trouble', detail, internal: error.message, retryAfterSeconds: null };
    }
  }

  return {
    async score({ promptIds, responseIds }, signal) {
      const tokenIds = [...Array.from(promptIds), ...Array.from(responseIds)];
      const endsAt = performance.now() + answerLimitMs;
      for (let tries = 1; ; tries++) {
        const outcome = await ask(tokenIds, Math.max(1, Math.ceil(endsAt - performance.now())), signal);
        if (outcome.kind === 'numbers')
          return scoreOf(outcome.numbers.subarray(promptIds.length), server.clip);
        const detail = `The server of the model ${outcome.detail}`;
        if (outcome.kind === 'refused') return { error: { code: 'model_failed', detail } };
        if (outcome.kind === 'credentials' && readKey) {
          const known = key;
          key = await readKey();
          if (key !== known) continue; // it was changed meanwhile
        }
        if (outcome.kind !== 'trouble') throw new ModelRefused(`its server ${outcome.detail}`);
        const retryAfterSeconds = outcome.retryAfterSeconds ?? 0;
        const delayMs = firstDelayMs * 2 ** (tries - 1) * (1 + Math.random() / 4);
        const waitMs = Math.max(1000 * retryAfterSeconds, delayMs);
        if (tries === mostTries || waitMs > longestWaitMs || performance.now() + waitMs > endsAt) {
          log.warn({ detail: outcome.internal ?? outcome.detail }, 'the server of a model does not serve');
          throw new Problem('unavailable', `Try again later. ${detail}`, {
            retryAfterSeconds: Math.min(longestRetryAfterSeconds, Math.max(5, retryAfterSeconds)),
          });
        }
        await sleep(waitMs, undefined, signal ? { signal } : {});
      }
    },
    async close() {
      end();
    },
    ended,
  };
}

function judge({ status, headers, body }: OutgoingAnswer, count: number, key: string | null): Outcome {
  const text = body.toString('utf8');
  if (status >= 200 && status < 300) {
    const read = readNumbers(text, count);
    if ('numbers' in read) return { kind: 'numbers', ...read };
    const detail = `does not answer as the pooling API does: ${read.fault}. It begins: ${excerptOf(text, key)}`;
    return { kind: 'trouble', detail, retryAfterSeconds: null };
  }
  const detail = `answered ${status}: ${excerptOf(text, key)}`;
  if ([408, 409, 425, 429].includes(status) || status >= 500) {
    const retryAfterSeconds = readRetryAfter([headers['retry-after']].flat()[0], Date.now());
    return { kind: 'trouble', detail, retryAfterSeconds };
  }
  if ([400, 413, 422].includes(status)) return { kind: 'refused', detail };
  return { kind: status === 401 || status === 403 ? 'credentials' : 'unusable', detail };
}

/** As far as it is read; nothing of it is known to be so. */
interface Pooled {
  data?: { data?: unknown }[];
}

/** One number for each token, bare or in a list of its own as vLLM gives them; NaN for null, as JSON has no other word for it. */
function readNumbers(text: string, count: number): { numbers: Float32Array } | { fault: string } {
  let parsed: Pooled | null;
  try {
    parsed = JSON.parse(text);
  } catch {
    return { fault: 'that is not JSON' };
  }
  const values = parsed?.data?.[0]?.data;
  if (!Array.isArray(values) || parsed?.data?.length !== 1) return { fault: 'there is no data[0].data' };
  if (values.length !== count) return { fault: `there are ${values.length} numbers for ${count} tokens` };
  const numbers = new Float32Array(count);
  for (const [position, value] of values.entries()) {
    const number = Array.isArray(value) && value.length === 1 ? value[0] : value;
    if (number !== null && typeof number !== 'number')
      return { fault: `data[0].data[${position}] is not one number` };
    numbers[position] = number ?? Number.NaN;
  }
  return { numbers };
}

/** @param clip as of a ModelServer */
function scoreOf(numbers: Float32Array, clip: number | null): SequenceScore {
  const wrong = numbers.findIndex((number) => !Number.isFinite(number));
  if (wrong !== -1) {
    const detail = `The model gives ${numbers[wrong]} for token ${wrong} of the response.`;
    return { error: { code: 'not_finite', detail } };
  }
  return { rewards: clip === null ? numbers : numbers.map((z) => Math.max(clip, -softplus(z))) };
}

/** log(1 + e^z) = -log(1 - sigmoid(z)), for any z. */
const softplus = (z: number): number => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z)));
