import t from 'tap';
import { startTestServer, type TestServer } from '../support/server.ts';

const editor = { kind: 'person', name: 'ann' };
const original = 'The cat sat on the mat, and the dog lay on the rug.';
const small = 'The cat sat on the mat, and the cow lay on the rug.';
const two = 'The cow sat on the mat, and the cow lay on the rug.';
const rewrite = 'Once upon a time there was a cat with a hat in a big house.';

/** A dataset with a policy, and pairs of which b is the worse response. */
async function datasetWith(server: TestServer, edit_policy: object, pairs = 1) {
  const { body } = await server.call('POST', '/v1/datasets', { json: { name: 'quality', edit_policy } });
  const rows = Array.from({ length: pairs }, (_, i) => ({
    prompt: `p${i}`,
    response_a: 'fine',
    response_b: original,
    preference: 'a',
  }));
  const added = await server.call('POST', `/v1/datasets/${body.id}/pairs`, { json: { pairs: rows } });
  return {
    dataset: body.id as string,
    policy: body.edit_policy,
    pairs: added.body.items.map(({ id }: { id: string }) => id) as string[],
  };
}

t.test('quality of edits', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const post = (pair_id: string, edited_response: string, by: object = editor) =>
    call('POST', '/v1/edits', { json: { edits: [{ pair_id, edited_response, editor: by }] } });

  t.test('a policy has defaults, and changes only where it is told to', async (t) => {
    const { dataset, policy } = await datasetWith(server, {});
    const defaults = {
      max_changed_fraction: 0.6,
      max_hunks: null,
      max_length_change: null,
      on_excess: 'warn',
      review: 'none',
    };
    t.same(policy, defaults);
    const path = `/v1/datasets/${dataset}`;
    const change = await call('PATCH', path, { json: { edit_policy: { max_hunks: 3 } } });
    t.same(change.body.edit_policy, { ...defaults, max_hunks: 3 });
    await call('PATCH', path, { json: { edit_policy: { on_excess: 'refuse' } } });
    t.same((await call('GET', path)).body.edit_policy, { ...defaults, max_hunks: 3, on_excess: 'refuse' });
    t.equal((await call('PATCH', path, { json: { edit_policy: { max_hunks: null } } })).status, 200);
    for (const wrong of [{ max_hunks: 0 }, { max_changed_fraction: 2 }, { review: 'maybe' }, { size: 1 }])
      t.match(await call('PATCH', path, { json: { edit_policy: wrong } }), {
        status: 400,
        body: { code: 'invalid_request' },
      });
  });

  t.test('an edit over a threshold is stored with a warning', async (t) => {
    const { dataset, pairs } = await datasetWith(server, {
      max_hunks: 1,
      max_length_change: 0.1,
      max_changed_fraction: 0.3,
    });
    const cases: [string, string[]][] = [
      [small, []],
      [two, ['many_changes']],
      [`${original} Then it rained.`, ['length_changed']],
      ['The cat sat on the mat, and a bird flew over the sea.', ['mostly_rewritten']],
      [rewrite, ['no_common_text']],
    ];
    for (const [edited, codes] of cases) {
      const { body } = await post(pairs[0]!, edited);
      t.equal(body.items[0].status, 'accepted');
      t.same(
        body.items[0].alignment.warnings.map(({ code }: { code: string }) => code),
        codes,
      );
      t.equal(body.items[0].alignment.minimal, codes.length === 0);
    }
    const list = await call('GET', `/v1/edits?dataset_id=${dataset}&minimal=false`);
    t.equal(list.body.items.length, 4, 'edits that are not minimal can be listed');
    const preview = (named: object) =>
      call('POST', '/v1/edits/preview', { json: { original, edited: two, ...named } });
    t.match((await preview({})).body, { minimal: true, refused: false }, 'by default two places are fine');
    t.match((await preview({ dataset_id: dataset })).body, { minimal: false, refused: false });
    t.equal((await preview({ dataset_id: pairs[0] })).status, 404);
  });

  t.test('a policy that refuses stores nothing', async (t) => {
    const { dataset, pairs } = await datasetWith(server, { max_hunks: 1, on_excess: 'refuse' }, 2);
    t.match(await post(pairs[0]!, two), {
      status: 422,
      body: {
        code: 'edit_refused',
        detail: /2 places are changed, more than 1/,
        errors: [{ pointer: '/edits/0/edited_response', in: 'body' }],
      },
    });
    const batch = [small, rewrite].map((edited_response, i) => ({
      pair_id: pairs[i],
      edited_response,
      editor,
    }));
    t.match(await call('POST', '/v1/edits', { json: { edits: batch } }), {
      status: 422,
      body: { detail: /1 of 2 edits/, errors: [{ pointer: '/edits/1/edited_response' }] },
    });
    t.equal((await call('GET', `/v1/edits?dataset_id=${dataset}`)).body.items.length, 0);
    t.equal((await post(pairs[0]!, original)).body.items[0].status, 'unchanged', 'no change is no excess');
    const preview = { original, edited: two, dataset_id: dataset };
    t.match((await call('POST', '/v1/edits/preview', { json: preview })).body, { refused: true });

    await call('POST', '/v1/edit-requests', {
      json: { dataset_id: dataset, editor: 'person', redundancy: 1 },
    });
    const claim = await call('POST', '/v1/edit-tasks/claim', {
      json: { editor: { kind: 'person', name: 'bo' } },
    });
    const [{ id, lease_token }] = claim.body.items;
    const submit = (edited_response: string) =>
      call('POST', `/v1/edit-tasks/${id}/submit`, { json: { lease_token, edited_response } });
    t.match(await submit(two), {
      status: 422,
      body: { code: 'edit_refused', errors: [{ pointer: '/edited_response' }] },
    });
    t.equal((await submit(small)).status, 201, 'the task is still held');
  });

  t.test('reviews', async (t) => {
    const { dataset, pairs } = await datasetWith(server, { review: 'required' }, 3);
    const pending = async () =>
      (await call('GET', `/v1/edits?dataset_id=${dataset}&status=pending`)).body.items;
    const [pair] = pairs as [string];
    const edit = (await post(pair, two)).body.items[0];
    t.equal(edit.status, 'pending');
    t.same(
      (await pending()).map(({ id }: { id: string }) => id),
      [edit.id],
    );
    const snapshot = { dataset_ids: [dataset], split: { train: 1, validation: 0, test: 0, seed: 0 } };
    t.equal((await call('POST', '/v1/snapshots', { json: snapshot })).body.counts.edits, 0);
    const path = `/v1/edits/${edit.id}`;
    const decide = (json: object, headers = {}) => call('POST', `${path}/decision`, { json, headers });

    t.test('accept, reject, supersede, and their history', async (t) => {
      const accepted = await decide({ decision: 'accept', reviewer: 'rita' });
      t.match(accepted, { status: 200, body: { status: 'accepted', superseded_by: null } });
      t.type(accepted.body.decided_at, 'string');
      t.same((await call('GET', path)).body, accepted.body);
      t.same(await pending(), []);
      t.equal((await call('POST', '/v1/snapshots', { json: snapshot })).body.counts.edits, 1);

      t.match((await decide({ decision: 'reject', reviewer: 'ray', reason: 'too much' })).body, {
        status: 'rejected',
      });
      const own = await decide({ decision: 'supersede', reviewer: 'rita', edited_response: small });
      t.match(own.body, { status: 'superseded', superseded_by: /^edit_/ });
      t.match((await call('GET', `/v1/edits/${own.body.superseded_by}`)).body, {
        status: 'accepted',
        edited_response: small,
        editor: { kind: 'person', name: 'rita' },
      });
      const third = (await post(pair, small, { kind: 'program', name: 'p' })).body.items[0].id;
      t.match((await decide({ decision: 'supersede', reviewer: 'ray', superseded_by: third })).body, {
        superseded_by: third,
      });
      const history = await call('GET', `${path}/decisions?limit=3`);
      t.match(history.body.items, [
        { decision: 'accept', reviewer: 'rita', reason: null, edit_id: edit.id },
        { decision: 'reject', reviewer: 'ray', reason: 'too much', superseded_by: null },
        { decision: 'supersede', superseded_by: own.body.superseded_by },
      ]);
      const rest = await call('GET', `${path}/decisions?limit=3&cursor=${history.body.next_cursor}`);
      t.match(rest.body, { items: [{ superseded_by: third }], next_cursor: null });
    });

    t.test('an accepted edit is stale while the preference is on its side', async (t) => {
      await call('PATCH', `/v1/pairs/${pair}`, { json: { preference: 'b' } });
      t.equal((await decide({ decision: 'accept', reviewer: 'rita' })).body.status, 'stale');
      await call('PATCH', `/v1/pairs/${pair}`, { json: { preference: null } });
      t.equal((await call('GET', path)).body.status, 'accepted', 'no preference, no stale edit');
      await call('PATCH', `/v1/pairs/${pair}`, { json: { preference: 'a' } });
    });

    t.test('of two reviewers who have seen the same state one decides', async (t) => {
      const etag = (await call('GET', path)).headers.get('etag')!;
      t.equal((await decide({ decision: 'reject', reviewer: 'ray' }, { 'if-match': etag })).status, 200);
      t.match(await decide({ decision: 'accept', reviewer: 'rita' }, { 'if-match': etag }), {
        status: 412,
        body: { code: 'precondition_failed' },
      });
    });

    t.test('what cannot be decided', async (t) => {
      const other = (await post(pairs[1]!, small)).body.items[0].id;
      const cases: [object, number][] = [
        [{ decision: 'supersede', reviewer: 'r' }, 422],
        [{ decision: 'accept', reviewer: 'r', edited_response: small }, 422],
        [{ decision: 'supersede', reviewer: 'r', edited_response: small, superseded_by: other }, 422],
        [{ decision: 'supersede', reviewer: 'r', superseded_by: other }, 422],
        [{ decision: 'supersede', reviewer: 'r', superseded_by: edit.id }, 422],
        [{ decision: 'supersede', reviewer: 'r', superseded_by: `edit_${'0'.repeat(32)}` }, 404],
        [{ decision: 'perhaps', reviewer: 'r' }, 400],
        [{ decision: 'accept' }, 400],
        [{ decision: 'accept', reviewer: 'r', reason: 'a\0b' }, 422],
      ];
      for (const [json, status] of cases) t.equal((await decide(json)).status, status, JSON.stringify(json));
      const same = (await post(pairs[2]!, original)).body.items[0];
      t.match(
        await call('POST', `/v1/edits/${same.id}/decision`, { json: { decision: 'accept', reviewer: 'r' } }),
        { status: 409, body: { code: 'conflict' } },
      );
      const unknown = `/v1/edits/edit_${'0'.repeat(32)}`;
      t.equal(
        (await call('POST', `${unknown}/decision`, { json: { decision: 'accept', reviewer: 'r' } })).status,
        404,
      );
      t.equal((await call('GET', `${unknown}/decisions`)).status, 404);
    });
  });

  t.test('votes', async (t) => {
    const { dataset, pairs } = await datasetWith(server, {});
    const path = `/v1/pairs/${pairs[0]}`;
    const edit = (await post(pairs[0]!, small)).body.items[0].id;
    const vote = async (voter: string, choice: string | null) =>
      (await call('POST', `${path}/votes`, { json: { voter, vote: choice } })).body;

    t.test('the preference follows from them, and stale edits from it', async (t) => {
      t.match(await vote('ann', 'b'), { preference: 'b', votes: { a: 0, b: 1, tie: 0 } });
      t.equal((await call('GET', `/v1/edits/${edit}`)).body.status, 'stale');
      t.match(await vote('bo', 'a'), { preference: null, votes: { a: 1, b: 1, tie: 0 } });
      t.equal((await call('GET', `/v1/edits/${edit}`)).body.status, 'accepted');
      t.match(await vote('cy', 'tie'), { preference: null, votes: { tie: 1 } });
      t.match(await vote('ann', 'a'), { preference: 'a', votes: { a: 2, b: 0, tie: 1 } });
      t.match(await vote('cy', null), { preference: 'a', votes: { a: 2, b: 0, tie: 0 } });
      t.match(await vote('nobody', null), { votes: { a: 2, b: 0, tie: 0 } });
      t.match((await call('GET', `${path}/votes`)).body, {
        items: [
          { voter: 'ann', vote: 'a' },
          { voter: 'bo', vote: 'a' },
        ],
        next_cursor: null,
      });
    });

    t.test('given at once, no vote is lost', async (t) => {
      const voters = Array.from({ length: 20 }, (_, i) => `voter-${i}`);
      await Promise.all(voters.map((voter) => vote(voter, 'b')));
      t.match((await call('GET', path)).body, { preference: 'b', votes: { a: 2, b: 20, tie: 0 } });
    });

    t.test('counts that come with a pair go on counting', async (t) => {
      const row = { prompt: 'q', response_a: 'x', response_b: 'y', votes: { a: 3, b: 1 } };
      const added = await call('POST', `/v1/datasets/${dataset}/pairs`, { json: { pairs: [row] } });
      const counted = `/v1/pairs/${added.body.items[0].id}`;
      t.match((await call('GET', counted)).body, { preference: 'a', votes: { a: 3, b: 1, tie: 0 } });
      const json = { voter: 'ann', vote: 'b' };
      t.match((await call('POST', `${counted}/votes`, { json })).body.votes, { a: 3, b: 2 });
      const lines = `${JSON.stringify({ ...row, prompt: 'r' })}\n${JSON.stringify({ ...row, votes: { c: 1 } })}\n`;
      const imported = await call('POST', `/v1/datasets/${dataset}/pairs/import`, {
        body: lines,
        headers: { 'content-type': 'application/x-ndjson' },
      });
      t.match(imported.body, { created: 1, rejected: 1, errors: [{ line: 2, pointer: '/votes/c' }] });
    });

    t.test('what is no vote', async (t) => {
      for (const json of [{ voter: 'x', vote: 'c' }, { vote: 'a' }, { voter: '', vote: 'a' }])
        t.equal((await call('POST', `${path}/votes`, { json })).status, 400, JSON.stringify(json));
      t.equal((await call('GET', `/v1/pairs/pair_${'0'.repeat(32)}/votes`)).status, 404);
    });
  });
});
