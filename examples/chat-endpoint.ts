// A chat endpoint that speaks OpenAI's protocol (POST …/chat/completions), whoever runs it. Waits and asks again where that
// may help, for a minute or as long as it is told to; tells what is wrong with the endpoint from what is wrong with one
// request. Never shows the key.
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from './command-line.ts';

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface ChatEndpoint {
  /**
   * The answer's text, '' where there is none.
   * @throws RequestRefused for this request alone; Error when asking for anything else makes no sense either
   */
  complete(messages: ChatMessage[], signal: AbortSignal): Promise<string>;
}

/** The endpoint works, and does not want this request: too long, perhaps, or not to its taste. */
export class RequestRefused extends Error {}

const attempts = 7;
const firstWaitMs = 1000; // doubled each time
const longestWaitMs = 60_000;
const timeoutMs = 180_000;
const ofRequest = [400, 413, 422];
const refusalsInRow = 5; // more of them are the endpoint's way to say that it does not want to

/** @param url the base, such as https://…/v1 */
export function chatEndpoint(url: string, model: string, key?: string): ChatEndpoint {
  const target = `${url.replace(/\/+$/, '')}/chat/completions`;
  const told = (what: string): string => `${target} ${what}`;
  const excerpt = (text: string): string =>
    (key ? text.replaceAll(key, '…') : text).replaceAll('\0', '').slice(0, 500).toWellFormed().trim();
  let hasAnswered = false; // until then it is more likely the wrong URL than a bad moment
  let refusalsLeft = refusalsInRow;

  const ask = async (messages: ChatMessage[], signal: AbortSignal): Promise<string | Trouble> => {
    let response: Response;
    let text: string;
    try {
      response = await fetch(target, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...(key ? { authorization: `Bearer ${key}` } : {}) },
        body: JSON.stringify({ model, messages }),
        signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]),
      });
      text = await response.text();
    } catch (error) {
      signal.throwIfAborted();
      const what = `cannot be reached: ${messageOf(error as Error)}`;
      if (!hasAnswered) throw new Error(told(what));
      return { what };
    }
    const { status } = response;
    if (!response.ok) {
      const what = `answered ${status}: ${excerpt(text)}`;
      if (status === 429 || status >= 500)
        return { what, waitMs: retryAfterMs(response.headers.get('retry-after')) };
      if (ofRequest.includes(status)) {
        if (!hasAnswered) return { what }; // an answer to another request may show that it is this one's fault
        if (refusalsLeft-- > 0) throw new RequestRefused(told(what));
      }
      if (status === 401 || status === 403) throw new Error(told(`refuses the key: it ${what}`));
      throw new Error(told(what));
    }
    const content = contentOf(text);
    if (content === undefined) {
      const what = `does not answer as a chat completion endpoint: ${excerpt(text)}`;
      if (!hasAnswered) throw new Error(told(what));
      return { what };
    }
    hasAnswered = true;
    refusalsLeft = refusalsInRow;
    return content;
  };

  return {
    async complete(messages, signal) {
      for (let attempt = 1; ; attempt++) {
        const answer = await ask(messages, signal);
        if (typeof answer === 'string') return answer;
        const { what, waitMs = firstWaitMs * 2 ** (attempt - 1) } = answer;
        if (attempt === attempts) throw new Error(told(`${what} (${attempts} times)`));
        const seconds = Math.ceil(waitMs / 1000);
        if (waitMs > longestWaitMs)
          throw new Error(told(`${what} (it asks to wait ${seconds} s; start again then)`));
        process.stderr.write(`${told(what)} (asking again in ${seconds} s)\n`);
        await sleep(waitMs * (1 + Math.random() / 4), undefined, { signal }); // not all at once
      }
    },
  };
}

/** What waiting may cure. */
interface Trouble {
  what: string;
  waitMs?: number | undefined;
}

/** Retry-After: seconds or a date (RFC 9110, 10.2.3). */
function retryAfterMs(header: string | null): number | undefined {
  if (header === null) return undefined;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.max(0, ms);
}

/** undefined for what is no chat completion */
function contentOf(text: string): string | undefined {
  try {
    const { content } = JSON.parse(text).choices[0].message;
    return typeof content === 'string' ? content : '';
  } catch {
    return undefined;
  }
}
