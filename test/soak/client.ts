// The soak's HTTP client: keep-alive connections, answers as text, every 5xx remembered.
import { Agent, type Dispatcher, request } from 'undici';

export interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: the shapes are the document's
  body: any;
}

export interface Sent {
  json?: unknown;
  body?: Dispatcher.DispatchOptions['body'];
  headers?: Record<string, string>;
  key?: string | null;
  signal?: AbortSignal;
}

export interface Client {
  url: string;
  send(method: string, path: string, sent?: Sent): Promise<Answer>;
  /** As `send`. @throws Unexpected unless the status is one of these */
  expect(statuses: number[], method: string, path: string, sent?: Sent): Promise<Answer>;
  /** Begins a request and leaves in the middle of it: after `bytes` of the answer, or after a few milliseconds. */
  leave(method: string, path: string, after: { bytes: number } | { ms: number }, sent?: Sent): Promise<void>;
  serverErrors: string[];
  close(): Promise<void>;
}

/** An answer that the request should not have got. */
export class Unexpected extends Error {}

export function openClient(url: string, defaultKey: string, connections: number): Client {
  const dispatcher = new Agent({ connections, keepAliveTimeout: 20_000 });
  const serverErrors: string[] = [];
  const begin = (method: string, path: string, { json, body, headers, key = defaultKey, signal }: Sent) =>
    request(url + path, {
      dispatcher,
      method: method as Dispatcher.HttpMethod,
      headers: {
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        ...(json === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      body: json === undefined ? body : JSON.stringify(json),
      signal,
    });
  const send: Client['send'] = async (method, path, sent = {}) => {
    const { statusCode, headers, body } = await begin(method, path, sent);
    const text = await body.text();
    if (statusCode >= 500) serverErrors.push(`${method} ${path}: ${statusCode} ${text.slice(0, 300)}`);
    const isJson = /^application\/(problem\+)?json/.test(String(headers['content-type']));
    return { status: statusCode, headers, text, body: isJson ? JSON.parse(text) : undefined };
  };
  return {
    url,
    send,
    async expect(statuses, method, path, sent) {
      const answer = await send(method, path, sent);
      if (statuses.includes(answer.status)) return answer;
      throw new Unexpected(
        `${method} ${path} answered ${answer.status}, not ${statuses}: ${answer.text.slice(0, 300)}`,
      );
    },
    async leave(method, path, after, sent = {}) {
      const gone = new AbortController();
      const timer = 'ms' in after ? setTimeout(() => gone.abort(), after.ms) : undefined;
      try {
        const { body } = await begin(method, path, { ...sent, signal: gone.signal });
        let read = 0;
        for await (const chunk of body) {
          read += (chunk as Buffer).length;
          if ('bytes' in after && read >= after.bytes) gone.abort();
        }
      } catch (error) {
        if (!gone.signal.aborted) throw error;
      } finally {
        clearTimeout(timer);
      }
    },
    serverErrors,
    close: () => dispatcher.destroy(),
  };
}
