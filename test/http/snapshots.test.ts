import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { loadModelTokenizer } from '../../src/scoring/tokenizer.ts';
import { registerTinyModel, tinyModelFolder } from '../support/models.ts';
import { startTestServer, type TestServer } from '../support/server.ts';

const editor = { kind: 'person', name: 'ann' };
const split = { train: 0.6, validation: 0.2, test: 0.2, seed: 7 };

/** A dataset of 60 pairs over 30 prompts, the even ones edited; the same content whenever it is made. */
async function fill(server: TestServer, key: string, reversed = false): Promise<string> {
  const { call } = server;
  const id = (await call('POST', '/v1/datasets', { key, json: { name: 'snapshot source' } })).body.id;
  const numbers = Array.from({ length: 60 }, (_, i) => (reversed ? 59 - i : i));
  const pairs = numbers.map((i) => ({
    external_id: `e${i}`,
    prompt: `prompt ${i % 30}`,
    response_a: `the good answer number ${i}`,
    response_b: `the bad answer number ${i}`,
    preference: 'a',
  }));
  await call('POST', `/v1/datasets/${id}/pairs`, { key, json: { pairs } });
  const edits = numbers
    .filter((i) => i % 2 === 0)
    .map((i) => ({
      dataset_id: id,
      pair_external_id: `e${i}`,
      edited_response: `the fine answer number ${i}`,
      editor,
    }));
  await call('POST', '/v1/edits', { key, json: { edits } });
  return id;
}

t.test('snapshots', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const stranger = await server.otherProjectKey();
  const dataset = await fill(server, server.bootstrapKey);
  const created = await call('POST', '/v1/snapshots', { json: { dataset_ids: [dataset], split } });
  const path = `/v1/snapshots/${created.body.id}`;

  t.test('content, split by prompt, counts', async (t) => {
    t.match(created, {
      status: 201,
      body: {
        id: /^snap_/,
        digest: /^sha256:/,
        counts: { pairs: 60, edits: 30, undecided: 0 },
        dataset_ids: [dataset],
      },
    });
    t.same((await call('GET', path)).body, created.body);
    t.same((await call('GET', '/v1/snapshots')).body.items, [created.body]);
    const rows = (await call('GET', `${path}/export`)).text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    t.equal(rows.length, 60);
    const splitsOfPrompt = new Map<string, Set<string>>();
    for (const { prompt, split } of rows)
      splitsOfPrompt.set(prompt, (splitsOfPrompt.get(prompt) ?? new Set()).add(split));
    t.ok(
      [...splitsOfPrompt.values()].every((splits) => splits.size === 1),
      'no prompt is in two parts',
    );
    for (const part of ['train', 'validation', 'test']) {
      const ofPart = rows.filter((row) => row.split === part);
      t.ok(ofPart.length > 0);
      t.match(created.body.counts.splits[part], {
        pairs: ofPart.length,
        edits: ofPart.filter((row) => row.edits.length > 0).length,
      });
      t.same(
        (await call('GET', `${path}/export?split=${part}`)).text
          .trimEnd()
          .split('\n')
          .map((line) => JSON.parse(line)),
        ofPart,
      );
    }
    const artifact = await call('GET', `/v1/artifacts/${created.body.digest}`);
    t.equal(`sha256:${createHash('sha256').update(artifact.text).digest('hex')}`, created.body.digest);
  });

  t.test('with a model: token ids, changes and labels in its tokenizer', async (t) => {
    await registerTinyModel(server, { alias: 'token-reward' });
    const tokenizer = await loadModelTokenizer(fileURLToPath(tinyModelFolder));
    const rows = (await call('GET', `${path}/export?model=token-reward`)).text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    const edits = rows.filter(({ type }) => type === 'edit');
    t.same([edits.length, rows.length], [30, 90], 'every edit, and every pair that has a preference');
    t.notOk(
      rows.some((row) => 'votes' in row),
      'nobody voted',
    );
    const { original, edited, prompt, prompt_token_ids, usable } = edits[0];
    t.same(prompt_token_ids, await tokenizer.encodePrompt(prompt));
    for (const { text, token_ids } of [original, edited]) {
      t.same(token_ids, [...(await tokenizer.encodeResponse(text)).tokenIds, tokenizer.eosTokenId]);
    }
    const { offsets } = await tokenizer.encodeResponse(original.text);
    const labelled = offsets
      .filter((_, index) => original.labels[index] === 1)
      .map((span) => original.text.slice(...span));
    t.equal(labelled.join('').trim(), 'bad', 'the word that was edited away');
    t.equal(usable, true);
    t.same(edited.changed, edited.labels, 'a substitution labels all that changed');
    const train = (await call('GET', `${path}/export?model=token-reward&split=train`)).text;
    t.ok(
      train
        .trimEnd()
        .split('\n')
        .every((line) => JSON.parse(line).split === 'train'),
    );

    const preview = await call('POST', '/v1/edits/preview', {
      json: { original: original.text, edited: edited.text, model: 'token-reward' },
    });
    t.same(
      preview.body.tokens.original.changed,
      original.changed.slice(0, -1).map((changed: number) => changed === 1),
      'the preview sees the same tokens',
    );
  });

  t.test('equal content has an equal digest, in another order, project and time', async (t) => {
    const other = await fill(server, stranger, true);
    const twin = await call('POST', '/v1/snapshots', {
      key: stranger,
      json: { dataset_ids: [other], split },
    });
    t.equal(twin.body.digest, created.body.digest);
    const seeded = await call('POST', '/v1/snapshots', {
      key: stranger,
      json: { dataset_ids: [other], split: { ...split, seed: 8 } },
    });
    t.not(seeded.body.digest, created.body.digest);
  });

  t.test('immutable: a pair deleted later stays', async (t) => {
    const { items } = (await call('GET', `/v1/datasets/${dataset}/pairs?limit=1`)).body;
    await call('DELETE', `/v1/pairs/${items[0].id}`);
    t.equal((await call('GET', `${path}/export`)).text.trimEnd().split('\n').length, 60);
    t.equal(
      (await call('POST', '/v1/snapshots', { json: { dataset_ids: [dataset], split } })).body.counts.pairs,
      59,
    );
  });

  t.test('filter', async (t) => {
    const edited = await call('POST', '/v1/snapshots', {
      json: { dataset_ids: [dataset], filter: { has_edit: false }, split },
    });
    t.match(edited.body.counts, { edits: 0, pairs: 30 });
  });

  t.test('rules: competing edits, rewrites, pairs that nobody is sure of', async (t) => {
    const named = { json: { name: 'rules', edit_policy: { max_hunks: 1 } } };
    const id = (await call('POST', '/v1/datasets', named)).body.id;
    const response_b = 'the bad answer of the old man';
    const votes = [{ a: 3, b: 2 }, { a: 9, b: 1 }, { a: 1, b: 1 }, undefined];
    const pairs = votes.map((votes, i) => ({ prompt: `p${i}`, response_a: 'fine', response_b, votes }));
    const added = await call('POST', `/v1/datasets/${id}/pairs`, { json: { pairs } });
    const [first, second, tied]: string[] = added.body.items.map(({ id }: { id: string }) => id);
    const edits: [string, string, string][] = [
      [first!, 'ann', 'the good answer of the old man'],
      [first!, 'bo', 'the good answer of the young man'],
      [first!, 'cy', 'the fine answer of the old man'],
      [second!, 'ann', 'another text that shares nothing else'],
      [tied!, 'ann', 'the good answer of the old man'],
    ];
    const ids: string[] = [];
    for (const [pair_id, name, edited_response] of edits) {
      const edit = { pair_id, side: 'b', edited_response, editor: { kind: 'person', name } };
      ids.push((await call('POST', '/v1/edits', { json: { edits: [edit] } })).body.items[0].id);
    }
    const accept = { json: { decision: 'accept', reviewer: 'rita' } };
    await call('POST', `/v1/edits/${ids[0]}/decision`, accept);
    const take = async (rules: object, filter = {}) => {
      const json = { dataset_ids: [id], split, rules, filter };
      const snapshot = (await call('POST', '/v1/snapshots', { json })).body;
      const lines = (await call('GET', `/v1/snapshots/${snapshot.id}/export`)).text.trimEnd().split('\n');
      const rows = lines.map((line) => JSON.parse(line));
      const editors = (prompt: string) =>
        rows
          .find((row) => row.prompt === prompt)
          ?.edits.map(({ editor }: { editor: { name: string } }) => editor.name);
      return { snapshot, rows, editors };
    };

    const all = await take({});
    t.match(all.snapshot, {
      rules: { edits: 'all', rewrites: 'comparison', undecided: 'keep', min_vote_share: 0 },
      counts: { pairs: 4, edits: 5, undecided: 2, ambiguous: 0, rewrites: 2 },
    });
    t.same(all.editors('p0'), ['ann', 'bo', 'cy']);
    t.match(all.rows[0].minimality, { max_hunks: 1 }, 'the thresholds of the dataset travel with its pairs');
    t.match(
      all.rows.find(({ prompt }) => prompt === 'p1'),
      { votes: { a: 9, b: 1, tie: 0 }, preference: 'a' },
    );
    t.notOk(
      all.rows.find(({ prompt }) => prompt === 'p3').votes,
      'a pair without votes says nothing of them',
    );

    t.same((await take({ edits: 'latest' })).editors('p0'), ['cy']);
    t.same((await take({ edits: 'majority' })).editors('p0'), ['ann'], 'it shares most with the two others');
    const accepted = await take({ edits: 'accepted' });
    t.same([accepted.editors('p0'), accepted.editors('p1')], [['ann'], []]);
    t.match(accepted.snapshot, {
      rules: { edits: 'accepted' },
      counts: { left_out: { competing_edits: 4 } },
    });

    const minimal = await take({ rewrites: 'exclude' });
    t.same([minimal.editors('p0'), minimal.editors('p1')], [['ann', 'cy'], []]);
    t.match(minimal.snapshot.counts, { edits: 3, rewrites: 0, left_out: { rewrites: 2 } });
    t.match((await take({ rewrites: 'exclude' }, { has_edit: true })).snapshot.counts, {
      pairs: 2,
      left_out: { unedited_pairs: 1 },
    });

    const sure = await take({ min_vote_share: 0.7 });
    t.match(sure.snapshot.counts, { pairs: 4, undecided: 3, ambiguous: 1 });
    t.equal(sure.rows.find(({ prompt }) => prompt === 'p0').preference, null);
    const decided = await take({ min_vote_share: 0.7, undecided: 'exclude' });
    t.match(decided.snapshot.counts, { pairs: 1, undecided: 0, left_out: { undecided_pairs: 3 } });

    await registerTinyModel(server, { alias: 'of-rules' });
    const labels = await call('GET', `/v1/snapshots/${all.snapshot.id}/export?model=of-rules`);
    const labelled = labels.text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    const edited = labelled.filter(({ type }) => type === 'edit');
    const p0 = all.rows.find(({ prompt }) => prompt === 'p0').key;
    t.equal(edited.filter(({ pair }) => pair === p0).length, 3, 'edits of one pair name it');
    t.same(
      labelled
        .filter(({ type }) => type === 'pair')
        .map(({ prompt, votes }) => [prompt, votes])
        .sort(),
      [
        ['p0', { preferred: 3, other: 2, tie: 0 }],
        ['p1', { preferred: 9, other: 1, tie: 0 }],
      ],
    );
    const usable = edited.map(({ edited, usable }) => [edited.text, usable]);
    t.same(
      new Map(usable.map(([text, flag]) => [text, flag])),
      new Map(edits.map(([, , text]) => [text, !/young|another/.test(text)])),
      'token labels follow the thresholds of the dataset',
    );

    for (const rules of [{ edits: 'first' }, { min_vote_share: 2 }, { sample: 1 }])
      t.equal(
        (await call('POST', '/v1/snapshots', { json: { dataset_ids: [id], split, rules } })).status,
        400,
      );
  });

  t.test('error', async (t) => {
    t.match(
      await call('POST', '/v1/snapshots', {
        json: { dataset_ids: [dataset], split: { ...split, test: 0.3 } },
      }),
      {
        status: 422,
        body: { errors: [{ pointer: '/split' }] },
      },
    );
    t.match(await call('POST', '/v1/snapshots', { json: { dataset_ids: ['ds_1'], split } }), {
      status: 404,
      body: { errors: [{ pointer: '/dataset_ids/0' }] },
    });
    t.match(await call('POST', '/v1/snapshots', { json: { dataset_ids: [], split } }), { status: 400 });
    const empty = (await call('POST', '/v1/datasets', { json: { name: 'empty' } })).body.id;
    t.match(await call('POST', '/v1/snapshots', { json: { dataset_ids: [empty], split } }), { status: 422 });
    t.match(await call('GET', `${path}/export?model=nobody`), { status: 404 });
    t.match(await call('GET', `${path}/export?split=dev`), {
      status: 400,
      body: { errors: [{ pointer: '/split', in: 'query' }] },
    });
  });

  t.test('security', async (t) => {
    t.match(await call('GET', path, { key: stranger }), { status: 404 });
    t.match(await call('GET', `${path}/export`, { key: stranger }), { status: 404 });
    t.match(await call('POST', '/v1/snapshots', { key: stranger, json: { dataset_ids: [dataset], split } }), {
      status: 404,
    });
  });
});
