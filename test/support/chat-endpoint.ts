// An OpenAI-compatible chat endpoint that behaves as badly as it is told to.
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';

export interface Asked {
  authorization: string | undefined;
  model: string;
  messages: { role: string; content: string }[];
  max_tokens?: number;
  max_completion_tokens?: number;
  temperature?: number;
  logprobs?: boolean;
  top_logprobs?: number;
  /** of what is to be edited or judged */
  prompt: string;
  /** responses that are to be judged, in their order; empty when it is an edit */
  first: string;
  second: string;
  /** what the tags around texts end in */
  mark: string;
  /** times that this prompt was asked for before */
  before: number;
  at: number;
}

export interface Reply {
  status?: number;
  headers?: Record<string, string>;
  /** of a completion; `edited` and `verdict` stand between the tags that were asked for */
  content?: unknown;
  edited?: string;
  verdict?: string;
  logprobs?: unknown;
  message?: object;
  finish_reason?: string;
  /** null: the answer does not say; 10 and 5 tokens unless given */
  usage?: object | null;
  /** instead of a completion */
  body?: string | Buffer;
  delayMs?: number;
  /** waits for it */
  after?: Promise<unknown>;
  /** never ends; breaks off; closes without a word */
  way?: 'hang' | 'cut' | 'close';
}

export interface ChatServer {
  /** base URL */
  url: string;
  port: number;
  all: Asked[];
  /** how many requests were answered at a time, at most */
  mostAtOnce: number;
  of(prompt: string): Asked[];
  /** Waits for so many requests. @throws Error after half a minute */
  until(count: number): Promise<void>;
}

export async function startChatServer(t: Test, reply: (asked: Asked) => Reply): Promise<ChatServer> {
  const all: Asked[] = [];
  let atOnce = 0;
  const server = createServer(async (request, response) => {
    atOnce += 1;
    chat.mostAtOnce = Math.max(chat.mostAtOnce, atOnce);
    response.once('close', () => {
      atOnce -= 1;
    });
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    if (request.method !== 'POST' || request.url !== '/v1/chat/completions') {
      response.writeHead(404).end();
      return;
    }
    const asked = read(text, request.headers.authorization, all);
    all.push(asked);
    await send(response, reply(asked), asked);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  const chat: ChatServer = {
    url: `http://127.0.0.1:${port}/v1`,
    port,
    all,
    mostAtOnce: 0,
    of: (prompt) => all.filter((asked) => asked.prompt === prompt),
    async until(count) {
      for (let waited = 0; all.length < count; waited += 10) {
        if (waited > 30_000) throw new Error(`The chat endpoint got ${all.length} of ${count} requests.`);
        await sleep(10);
      }
    },
  };
  return chat;
}

function read(text: string, authorization: string | undefined, all: Asked[]): Asked {
  const body = JSON.parse(text);
  const { content } = body.messages[1];
  const [, mark = '', prompt = ''] = /<prompt-(\w+)>\n([\s\S]*?)\n<\/prompt-\1>/.exec(content) ?? [];
  const [, first = '', second = ''] =
    /<response-A-\w+>\n([\s\S]*?)\n<\/response-A-\w+>\s+<response-B-\w+>\n([\s\S]*?)\n<\/response-B-/.exec(
      content,
    ) ?? [];
  const before = all.filter((other) => other.prompt === prompt).length;
  return { ...body, authorization, prompt, first, second, mark, before, at: performance.now() };
}

async function send(response: ServerResponse, reply: Reply, { mark }: Asked): Promise<void> {
  const { status = 200, headers = {}, edited, verdict, finish_reason = 'stop', usage, way } = reply;
  await reply.after;
  if (reply.delayMs) await sleep(reply.delayMs);
  if (way === 'close') response.destroy();
  response.on('error', () => {}); // the client has gone
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  if (way === 'hang') {
    response.write('{"choices": [');
    return;
  }
  if (way === 'cut') {
    response.write('{"choices": [');
    setImmediate(() => response.destroy());
    return;
  }
  const content =
    edited !== undefined
      ? `<edited-${mark}>${edited}</edited-${mark}>`
      : verdict !== undefined
        ? `Both say something. <verdict-${mark}>${verdict}</verdict-${mark}>`
        : reply.content;
  const completion = {
    choices: [
      {
        message: reply.message ?? { role: 'assistant', content },
        finish_reason,
        ...(reply.logprobs === undefined ? {} : { logprobs: reply.logprobs }),
      },
    ],
    ...(usage === null ? {} : { usage: usage ?? { prompt_tokens: 10, completion_tokens: 5 } }),
  };
  response.end(reply.body ?? JSON.stringify(completion));
}
