// Many editors at once over real HTTP: what the leases promise.
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t from 'tap';
import { startTestServer, type TestServer } from '../support/server.ts';

interface Claimed {
  id: string;
  lease_token: string;
  pair: { id: string; external_id: string };
}

async function newRequest(server: TestServer, pairs: number, redundancy: number): Promise<string> {
  const { id } = (await server.call('POST', '/v1/datasets', { json: { name: 'busy' } })).body;
  const rows = Array.from({ length: pairs }, (_, i) => ({
    external_id: `p${i}`,
    prompt: `prompt ${i}`,
    response_a: 'right',
    response_b: 'wrong',
    preference: 'a',
  }));
  await server.call('POST', `/v1/datasets/${id}/pairs`, { json: { pairs: rows } });
  const json = { dataset_id: id, editor: 'program', redundancy };
  return (await server.call('POST', '/v1/edit-requests', { json })).body.id;
}

const claim = (server: TestServer, edit_request_id: string, name: string, options: object) =>
  server.call('POST', '/v1/edit-tasks/claim', {
    json: { edit_request_id, editor: { kind: 'program', name }, ...options },
  });

const submit = (server: TestServer, task: Claimed, edited_response: string) =>
  server.call('POST', `/v1/edit-tasks/${task.id}/submit`, {
    json: { lease_token: task.lease_token, edited_response },
  });

t.test('64 claimants share 200 tasks: none is given out twice, all are done once', async (t) => {
  const server = await startTestServer(t);
  const request = await newRequest(server, 100, 2);
  const given: { task: string; pair: string; editor: string }[] = [];
  // two processes of each of 32 editors: the same name twice is the same editor
  const work = async (index: number): Promise<void> => {
    const editor = `editor-${index % 32}`;
    for (;;) {
      const { status, body } = await claim(server, request, editor, { limit: 1 + (index % 3) });
      t.equal(status, 200);
      given.push(
        ...body.items.map(({ id, pair }: Claimed) => ({ task: id, pair: pair.external_id, editor })),
      );
      if (body.open === 0 && body.items.length === 0) return;
      const answers = await Promise.all(body.items.map((task: Claimed) => submit(server, task, editor)));
      for (const { status } of answers) t.equal(status, 201);
      if (body.items.length === 0) await sleep(200);
    }
  };
  await Promise.all(Array.from({ length: 64 }, (_, index) => work(index)));
  t.equal(given.length, 200);
  t.equal(new Set(given.map(({ task }) => task)).size, 200, 'no task within a lease of another');
  t.equal(new Set(given.map(({ pair, editor }) => `${pair} ${editor}`)).size, 200, 'no editor a pair twice');
  const { body } = await server.call('GET', `/v1/edit-requests/${request}`);
  t.match(body, {
    state: 'finished',
    progress: { open: 0, leased: 0, submitted: 200, cancelled: 0, total: 200, skipped: 0 },
  });
  for (const { name, submitted } of body.editors)
    t.equal(submitted, given.filter(({ editor }) => editor === name).length, name);
  const edits = await everyEdit(server);
  t.equal(edits.length, 200);
  t.same(
    new Set(edits.map(({ edit_task_id }) => edit_task_id)),
    new Set(given.map(({ task }) => task)),
    'an edit of each task',
  );
  for (const { edited_response, editor } of edits) t.equal(editor.name, edited_response);
});

t.test('one editor who asks many times at once gets a pair once', async (t) => {
  const server = await startTestServer(t);
  const request = await newRequest(server, 5, 9);
  const answers = await Promise.all(
    Array.from({ length: 20 }, () => claim(server, request, 'eager', { limit: 1 })),
  );
  const pairs = answers.flatMap(({ body }) => body.items.map(({ pair }: Claimed) => pair.external_id));
  t.same(pairs.sort(), ['p0', 'p1', 'p2', 'p3', 'p4']);
});

t.test('leases that run out all the time: every late answer is refused, and nothing is lost', async (t) => {
  const server = await startTestServer(t);
  const request = await newRequest(server, 40, 2);
  const client = new pg.Client({ connectionString: server.database.superuserUrl });
  await client.connect();
  t.teardown(() => client.end());
  let done = false;
  // in place of waiting: the clock jumps for a fifth of the leases, again and again
  const expire = async (): Promise<void> => {
    while (!done) {
      await client.query(
        `update finegrain.edit_tasks set lease_expires_at = clock_timestamp() - interval '1 second'
         where state = 'leased' and random() < 0.2`,
      );
      await sleep(10);
    }
  };
  const outcomes = { submitted: 0, skipped: 0, released: 0, refused: 0 };
  const work = async (name: string, index: number): Promise<void> => {
    for (let step = index; ; step++) {
      const { status, body } = await claim(server, request, name, { limit: 4, lease_seconds: 5 });
      t.equal(status, 200);
      if (body.items.length === 0 && body.open === 0) return;
      if (body.items.length === 0) await sleep(5);
      for (const [position, task] of (body.items as Claimed[]).entries()) {
        const json = { lease_token: task.lease_token };
        const turn = (step + position) % 7;
        const what = turn === 5 ? 'release' : turn === 6 && index < 4 ? 'skip' : 'submit';
        const answer =
          what === 'submit'
            ? await submit(server, task, name)
            : await server.call('POST', `/v1/edit-tasks/${task.id}/${what}`, { json });
        if (answer.status === 409) {
          t.match(answer.body.detail, /lease ran out|does not hold|brought the edit/);
          outcomes.refused++;
        } else if (what === 'submit') outcomes.submitted += answer.status === 201 ? 1 : Number.NaN;
        else outcomes[what === 'skip' ? 'skipped' : 'released'] += answer.status === 200 ? 1 : Number.NaN;
      }
    }
  };
  const expiring = expire();
  await Promise.all(Array.from({ length: 8 }, (_, index) => work(`editor-${index}`, index)));
  done = true;
  await expiring;
  t.match(outcomes, { submitted: 80 });
  t.ok(outcomes.refused > 0 && outcomes.released > 0 && outcomes.skipped > 0, JSON.stringify(outcomes));
  t.match((await server.call('GET', `/v1/edit-requests/${request}`)).body, {
    state: 'finished',
    progress: { submitted: 80, total: 80, skipped: outcomes.skipped },
  });
  const edits = await everyEdit(server);
  t.equal(edits.length, 80);
  t.equal(new Set(edits.map(({ pair_id, editor }) => `${pair_id} ${editor.name}`)).size, 80);
  t.equal(new Set(edits.map(({ edit_task_id }) => edit_task_id)).size, 80);
});

t.test('cancelled, or its pairs deleted, in the middle of the work: no answer is a 5xx', async (t) => {
  const server = await startTestServer(t);
  const request = await newRequest(server, 150, 1);
  let submitted = 0;
  const work = async (name: string): Promise<void> => {
    for (;;) {
      const { status, body } = await claim(server, request, name, { limit: 5 });
      t.equal(status, 200);
      if (body.items.length === 0) return;
      await Promise.all(
        body.items.map(async (task: Claimed, index: number) => {
          const answers =
            index === 0
              ? [await server.call('DELETE', `/v1/pairs/${task.pair.id}`), await submit(server, task, 'x')]
              : index === 1
                ? await Promise.all([
                    submit(server, task, 'x'),
                    server.call('DELETE', `/v1/pairs/${task.pair.id}`),
                  ])
                : [await submit(server, task, 'x')];
          for (const { status } of answers) t.ok([201, 204, 404, 409].includes(status), `${status}`);
          if (index > 1 && answers[0]!.status === 201) submitted++;
        }),
      );
      if (submitted > 30) await server.call('POST', `/v1/edit-requests/${request}/cancel`);
    }
  };
  await Promise.all(['one', 'two', 'three', 'four'].map(work));
  const { body } = await server.call('GET', `/v1/edit-requests/${request}`);
  t.match(body, { state: 'cancelled', progress: { open: 0, leased: 0, submitted } });
  t.equal(body.progress.submitted + body.progress.cancelled, body.progress.total);
});

async function everyEdit(
  server: TestServer,
): Promise<{ pair_id: string; edited_response: string; edit_task_id: string; editor: { name: string } }[]> {
  const { items } = (await server.call('GET', '/v1/edits?limit=500')).body;
  return items;
}
