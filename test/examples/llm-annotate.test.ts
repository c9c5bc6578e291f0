// The annotation program with a chat endpoint as its editor, as a process between two servers: the API and an endpoint
// of this test's own.
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { workOff } from '../../examples/claim-loop.ts';
import { createClient } from '../../examples/client.ts';
import { type Ended, runProgram } from '../support/programs.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

interface Asked {
  authorization: string | undefined;
  model: string;
  messages: { role: string; content: string }[];
  at: number;
}

interface Reply {
  status?: number;
  headers?: Record<string, string>;
  /** of a chat completion */
  content?: unknown;
  /** instead of one */
  body?: string;
}

/** An OpenAI-compatible endpoint; `reply` sees what was asked before, too. */
async function startChat(t: Test, reply: (asked: Asked, all: Asked[]) => Reply) {
  const all: Asked[] = [];
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request.setEncoding('utf8')) text += chunk;
    const { authorization } = request.headers;
    const asked: Asked = { authorization, at: performance.now(), ...JSON.parse(text) };
    const { status = 200, headers = {}, content = '', body } = reply(asked, all);
    all.push({ ...asked, messages: [...asked.messages] });
    const known = request.method === 'POST' && request.url === '/v1/chat/completions';
    response.writeHead(known ? status : 404, { 'content-type': 'application/json', ...headers });
    response.end(body ?? JSON.stringify({ choices: [{ message: { role: 'assistant', content } }] }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`, all };
}

const original = 'The harbor bridge was opened in 1936, damn it.';
const edited = 'The harbor bridge was opened in 1932.';

/** A request for the edits of pairs with these prompts. */
async function askForEdits(server: TestServer, prompts: string[]): Promise<{ id: string; dataset: string }> {
  const dataset = (await server.call('POST', '/v1/datasets', { json: { name: 'bridges' } })).body.id;
  const pairs = prompts.map((prompt) => ({
    external_id: prompt,
    prompt,
    response_a: original,
    response_b: 'In 1932.',
    preference: 'b',
  }));
  await server.call('POST', `/v1/datasets/${dataset}/pairs`, { json: { pairs } });
  const json = { dataset_id: dataset, editor: 'program', instructions: 'Keep the tone calm.' };
  const { id } = (await server.call('POST', '/v1/edit-requests', { json })).body;
  return { id, dataset };
}

async function annotate(server: TestServer, requestId: string, env: NodeJS.ProcessEnv): Promise<Ended> {
  return runProgram(process.execPath, ['dist/examples/llm-annotate.js', requestId], {
    PATH: process.env.PATH,
    FINEGRAIN_URL: server.url,
    FINEGRAIN_API_KEY: await server.keyWith('read', 'edits:write'),
    LLM_MODEL: 'tiny-chat',
    ...env,
  });
}

const progressOf = async (server: TestServer, id: string) =>
  (await server.call('GET', `/v1/edit-requests/${id}`)).body;
const promptOf = ({ messages }: Asked): string =>
  /<prompt>\n(.*)\n<\/prompt>/.exec(messages[1]!.content)![1]!;

t.test('small edits are submitted, rewrites and nonsense are asked for again and skipped', async (t) => {
  const server = await startTestServer(t);
  const chat = await startChat(t, (asked) => {
    const second = asked.messages.length > 2;
    const replies: Record<string, Reply> = {
      good: { content: `<think>Is it <edited>1931</edited>?</think>\n<edited>\n${edited}\n</edited>` },
      rewrites: { content: '<edited>Nobody really knows when that happened, sorry.</edited>' },
      'rewrites, then edits': { content: `<edited>${second ? edited : 'Sorry?'}</edited>` },
      garbage: { content: 'As a language model I like bridges.' },
      silent: { content: null },
      unchanged: { content: `<edited>${original}</edited>` },
      'not Unicode': { content: '<edited>The harbor bridge was opened in \ud800.</edited>' },
    };
    return replies[promptOf(asked)]!;
  });
  const prompts = [
    'good',
    'rewrites',
    'rewrites, then edits',
    'garbage',
    'silent',
    'unchanged',
    'not Unicode',
  ];
  const request = await askForEdits(server, prompts);
  const ended = await annotate(server, request.id, { LLM_URL: chat.url, LLM_API_KEY: 'sk-tiny' });
  t.same(ended, { code: 0, stderr: '', stdout: ended.stdout });
  t.same(JSON.parse(ended.stdout.trim().split('\n').at(-1)!), { claimed: 7, edited: 2, skipped: 5, late: 0 });

  const { items } = (await server.call('GET', `/v1/edits?dataset_id=${request.dataset}`)).body;
  t.equal(items.length, 2);
  for (const edit of items)
    t.match(edit, {
      edited_response: edited,
      side: 'a',
      editor: { kind: 'llm', name: 'tiny-chat' },
      status: 'accepted',
      alignment: { minimal: true },
    });
  t.same(items.map(({ comment }: { comment: string }) => comment).sort(), [
    'prompt smallest-edit-1, answer 1',
    'prompt smallest-edit-1, answer 2',
  ]);
  const { editors } = await progressOf(server, request.id);
  t.match(editors, [{ kind: 'llm', name: 'tiny-chat', submitted: 2, skipped: 5, leased: 0 }]);

  const of = (prompt: string) => chat.all.filter((asked) => promptOf(asked) === prompt);
  t.same(
    prompts.map((prompt) => of(prompt).length),
    [1, 2, 2, 2, 2, 1, 2],
  );
  const [first, second] = of('rewrites');
  t.match(first, { authorization: 'Bearer sk-tiny', model: 'tiny-chat' });
  for (const text of [original, 'In 1932.', 'Keep the tone calm.'])
    t.ok(first!.messages[1]!.content.includes(text), `the editor sees ${text}`);
  t.match(
    second!.messages.at(-1),
    { role: 'user', content: /of the two texts is changed, more than 60 %/ },
    'why again',
  );
});

t.test('what waiting cures is waited for, as long as the endpoint says', async (t) => {
  const server = await startTestServer(t);
  const chat = await startChat(t, (asked, all) => {
    const before = all.filter((other) => promptOf(other) === promptOf(asked)).length;
    if (before > 0) return { content: `<edited>${edited}</edited>` };
    return promptOf(asked) === 'busy'
      ? { status: 429, headers: { 'retry-after': '2' }, body: 'slow down' }
      : { status: 500, body: 'oops' };
  });
  const request = await askForEdits(server, ['busy', 'broken']);
  const ended = await annotate(server, request.id, { LLM_URL: `${chat.url}/` });
  t.equal(ended.code, 0, ended.stderr);
  t.match(await progressOf(server, request.id), { state: 'finished', progress: { submitted: 2 } });
  const waited = (prompt: string): number => {
    const [first, second] = chat.all.filter((asked) => promptOf(asked) === prompt);
    return second!.at - first!.at;
  };
  t.ok(waited('busy') >= 1990, `Retry-After is 2 s, waited ${waited('busy')} ms`);
  t.ok(waited('broken') >= 990, `waited ${waited('broken')} ms`);
  t.match(ended.stderr, /answered 429: slow down \(asking again in 2 s\)/);
  t.equal(chat.all[0]!.authorization, undefined, 'no key, no header');
});

t.test('one refused request is skipped; many in a row end the program', async (t) => {
  const server = await startTestServer(t);
  const chat = await startChat(t, (asked) =>
    promptOf(asked) === 'good'
      ? { content: `<edited>${edited}</edited>` }
      : { status: 400, body: 'too \0long for sk-tiny' },
  );
  const prompts = Array.from({ length: 30 }, (_, index) => `bad ${index}`);
  const request = await askForEdits(server, [...prompts.slice(0, 3), 'good', ...prompts.slice(3)]);
  const ended = await annotate(server, request.id, { LLM_URL: chat.url, LLM_API_KEY: 'sk-tiny' });
  t.equal(ended.code, 1);
  t.match(ended.stderr, /answered 400: too long for …\n$/);
  const { progress } = await progressOf(server, request.id);
  t.match(progress, { submitted: 1, skipped: 5, leased: 0 }, 'it holds nothing any more');
});

t.test('an endpoint that cannot serve ends the program at once, and the tasks are free again', async (t) => {
  const server = await startTestServer(t);
  const request = await askForEdits(server, ['one', 'two', 'three']);
  const closed = createServer();
  closed.listen(0, '127.0.0.1');
  await once(closed, 'listening');
  const { port } = closed.address() as AddressInfo;
  await new Promise((done) => closed.close(done));
  const chat = await startChat(t, ({ model }) => {
    const replies: Record<string, Reply> = {
      'wrong key': { status: 401, body: '{"error": {"message": "Incorrect API key: sk-secret"}}' },
      'not a model': { status: 404, body: '{"error": {"message": "no such model"}}' },
      'out of budget': { status: 429, headers: { 'retry-after': '3600' }, body: 'quota' },
      'web page': { body: '<html>Welcome</html>' },
    };
    return replies[model]!;
  });
  for (const [model, url, message] of [
    ['any', `http://127.0.0.1:${port}/v1`, /cannot be reached: fetch failed: connect ECONNREFUSED/],
    ['wrong key', chat.url, /refuses the key: it answered 401: .*Incorrect API key: …/],
    ['not a model', chat.url, /answered 404: .*no such model/],
    ['out of budget', chat.url, /answered 429: quota \(it asks to wait 3600 s; start again then\)/],
    ['web page', chat.url, /does not answer as a chat completion endpoint: <html>/],
  ] as const) {
    const env = { LLM_URL: url, LLM_MODEL: model, LLM_API_KEY: 'sk-secret' };
    const ended = await annotate(server, request.id, env);
    t.equal(ended.code, 1, model);
    t.match(ended.stderr, message);
    t.notMatch(ended.stderr, /sk-secret/);
    const { progress } = await progressOf(server, request.id);
    t.match(progress, { open: 3, leased: 0, skipped: 0 }, `${model}: the tasks are open`);
  }
  t.match(await annotate(server, request.id, {}), { code: 1, stderr: 'Set LLM_URL.\n' });
  const away = { FINEGRAIN_URL: `http://127.0.0.1:${port}`, LLM_URL: chat.url };
  t.match(await annotate(server, request.id, away), {
    code: 1,
    stderr: /^fetch failed: connect ECONNREFUSED/,
  });
  t.match(await runProgram(process.execPath, ['dist/examples/llm-annotate.js']), { code: 2 });
});

t.test('the claim loop holds its tasks while the editor thinks', async (t) => {
  const server = await startTestServer(t);
  const request = await askForEdits(server, ['slow', 'slower']);
  const editor = { kind: 'llm', name: 'slow' } as const;
  const work = { requestId: request.id, editor, leaseSeconds: 5, batchSize: 2, inFlight: 1 };
  const slowly = async () => {
    await sleep(3500);
    return { edited_response: edited };
  };
  const told: object[] = [];
  await workOff(createClient(server.url, server.bootstrapKey), work, slowly, (done) =>
    told.push({ ...done }),
  );
  t.same(told.at(-1), { claimed: 2, edited: 2, skipped: 0, late: 0 });
});
