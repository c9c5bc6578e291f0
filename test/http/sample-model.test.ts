// The sample that ships in models/, as every project meets it.
import { createHash } from 'node:crypto';
import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { edit } from '../../examples/world/annotators.ts';
import { pairRows } from '../../examples/world/data.ts';
import { createRandom } from '../../examples/world/random.ts';
import { modelDigest } from '../../src/domain/model-digest.ts';
import { shippedSampleFolder } from '../../src/services/sample-model.ts';
import { registerTinyModel } from '../support/models.ts';
import { startTestServer } from '../support/server.ts';

const sample = JSON.parse(await readFile(join(shippedSampleFolder, 'model.json'), 'utf8'));

const prompt =
  'Write a letter to Anna about the harbor in a warm tone. Ask for two boxes, the ladder, the camera and the mirror.';
const good =
  'Dear Anna, this letter is about the harbor. It was a gentle day. Please order two boxes. First bring the ladder. Next comes the camera. Finally find the mirror. See you soon.';

t.test('the shipped files are those that model.json lists', async (t) => {
  for (const { path, digest, bytes } of sample.files) {
    const content = await readFile(join(shippedSampleFolder, path));
    t.equal(`sha256:${createHash('sha256').update(content).digest('hex')}`, digest, path);
    t.equal(content.length, bytes);
  }
  t.equal(modelDigest(sample.files), sample.digest);
  t.ok(sample.files.reduce((sum: number, { bytes }: { bytes: number }) => sum + bytes, 0) < 4e6, 'a few MB');
});

t.test('scoring with the sample', async (t) => {
  const server = await startTestServer(t, { sampleFolder: shippedSampleFolder });
  const { call } = server;
  const score = (json: object, key?: string) => call('POST', '/v1/score', { json, ...(key ? { key } : {}) });

  t.test('every project scores at once, with no model given', async (t) => {
    for (const key of [undefined, await server.otherProjectKey(), await server.keyWith('score')]) {
      const { status, body } = await score({ prompt, responses: [good] }, key);
      t.equal(status, 200);
      t.same(body.model, {
        id: sample.id,
        alias: 'token-reward',
        shared: true,
        digest: sample.digest,
        tokenizer_digest: sample.tokenizer_digest,
        precision: 'fp32',
      });
      const [result] = body.results;
      t.equal(result.tokens.join(''), good);
      t.equal(result.rewards.length, result.tokens.length);
      t.ok(result.rewards.every((reward: number) => Number.isFinite(reward) && reward <= 0));
    }
    t.match((await score({ model: sample.id, prompt, responses: [good] })).body.model, { alias: null });
  });

  t.test('int8 gives nearly the same, and says so, in streams and comparisons too', async (t) => {
    const [exact, rounded] = await Promise.all(
      ['fp32', 'int8'].map((precision) => score({ prompt, responses: [good], precision })),
    );
    t.match(rounded!.body.model, { id: sample.id, precision: 'int8' });
    const of = (answer: typeof exact): number[] => answer!.body.results[0].rewards;
    const differences = of(exact).map((reward, token) => Math.abs(reward - of(rounded)[token]!));
    t.ok(Math.max(...differences) < 0.05);
    t.ok(Math.max(...differences) > 0);
    const edited = { prompt, original: good.replace('Anna', 'Carl'), edited: good, precision: 'int8' };
    const { body } = await call('POST', '/v1/score/compare', { json: edited });
    t.equal(body.model.precision, 'int8');
    t.same(body.edited.rewards.slice(0, -1), of(rounded));
    const headers = { accept: 'application/x-ndjson' };
    const json = { prompt, responses: [good], precision: 'int8' };
    const lines = (await call('POST', '/v1/score', { json, headers })).text.trim().split('\n');
    t.match(
      lines.map((line) => JSON.parse(line)),
      [
        { event: 'begin', model: { precision: 'int8' } },
        { event: 'result', rewards: of(rounded) },
        { event: 'end', ok: 1 },
      ],
    );
  });

  t.test('a mistake costs, and the token that is blamed is the mistake', async (t) => {
    const mistakes: [right: string, wrong: string][] = [
      ['Anna', 'Carl'],
      ['harbor', 'garden'],
      ['gentle', 'stern'],
      ['two boxes', 'five boxes'],
      ['the ladder', 'the damn ladder'],
      ['the camera', 'the kettle'],
      ['See you', 'Our way is proven. See you'],
    ];
    const responses = [good, ...mistakes.map(([right, wrong]) => good.replace(right, wrong))];
    const [right, ...wrong] = (await score({ prompt, responses })).body.results;
    for (const [index, { reward, rewards, tokens, offsets }] of wrong.entries()) {
      const [before, after] = mistakes[index]!;
      t.ok(reward < right.reward - 0.3, `${after} scores ${reward}, ${before} ${right.reward}`);
      const start = good.indexOf(before);
      const worst = rewards.indexOf(Math.min(...rewards));
      const inside = offsets[worst][0] < start + after.length && start <= offsets[worst][1];
      t.ok(inside, `${after}: the worst token is ${JSON.stringify(tokens[worst])}`);
    }
  });

  t.test('repaired responses of prompts that it never saw score higher', async (t) => {
    const perfect = { fix: 1, gratuitous: 0, harm: 0 };
    const items = pairRows(9_000_001, 60).flatMap(({ prompt, response_a }) => {
      const repaired = edit(prompt, response_a, createRandom('repair'), perfect);
      return repaired === response_a ? [] : [response_a, repaired].map((response) => ({ prompt, response }));
    });
    const rewards = (await score({ items })).body.results.map(({ reward }: { reward: number }) => reward);
    const pairs = rewards.length / 2;
    const right = rewards.filter((reward: number, place: number) => place % 2 && reward > rewards[place - 1]);
    t.ok(pairs > 30 && right.length / pairs > 0.9, `${right.length} of ${pairs}`);
  });

  t.test('its tokens can be asked for, as those of any model', async (t) => {
    const json = { original: good.replace('Anna', 'Carl'), edited: good, model: 'token-reward' };
    const { status, body } = await call('POST', '/v1/edits/preview', { json });
    t.equal(status, 200);
    t.equal(body.tokens.original.changed.length, body.tokens.original.token_ids.length);
    t.ok(body.tokens.original.changed.some(Boolean));
  });
});

t.test('the sample among the models', async (t) => {
  const server = await startTestServer(t, { sampleFolder: shippedSampleFolder });
  const { call } = server;
  const own = await registerTinyModel(server);
  const policy = await registerTinyModel(server, { role: 'policy' });
  const put = (name: string, model_id: string) => call('PUT', `/v1/aliases/${name}`, { json: { model_id } });
  const path = `/v1/models/${sample.id}`;

  t.test('is read like any other', async (t) => {
    const { body } = await call('GET', path);
    t.same(body, { ...sample, run_id: null, shared: true });
    t.same((await call('GET', '/v1/models/token-reward')).body, body);
    t.equal((await call('GET', `/v1/models/${own}`)).body.shared, false);
    for (const { path: file, digest, bytes } of sample.files) {
      const response = await fetch(`${server.url}${path}/files/${file}`, {
        headers: { authorization: `Bearer ${server.bootstrapKey}` },
      });
      const content = Buffer.from(await response.arrayBuffer());
      t.equal(content.length, bytes);
      t.equal(`sha256:${createHash('sha256').update(content).digest('hex')}`, digest, file);
    }
    t.match(await call('GET', `${path}/files/README.md`), { status: 404 });
  });

  t.test('comes first in the list, once, whatever the pages', async (t) => {
    const list = async (query: string) => (await call('GET', `/v1/models?${query}`)).body;
    const ids = (page: { items: { id: string }[] }) => page.items.map(({ id }) => id);
    t.same(ids(await list('')), [sample.id, own, policy]);
    t.same(ids(await list('role=token_reward')), [sample.id, own]);
    t.same(ids(await list('role=policy')), [policy]);
    for (const limit of [1, 2, 3]) {
      const seen: string[] = [];
      for (let cursor = ''; ; ) {
        const page = await list(`limit=${limit}${cursor}`);
        seen.push(...ids(page));
        t.ok(page.items.length <= limit);
        if (page.next_cursor === null) break;
        cursor = `&cursor=${page.next_cursor}`;
      }
      t.same(seen, [sample.id, own, policy], `${limit} at a time`);
    }
    const stranger = await server.otherProjectKey();
    t.same(ids((await call('GET', '/v1/models', { key: stranger })).body), [sample.id]);
  });

  t.test('carries token-reward until the project gives it to a model of its own', async (t) => {
    const json = { prompt: 'Hi', responses: ['Hello'] };
    const carrier = async (key?: string) =>
      (await call('POST', '/v1/score', { json, ...(key ? { key } : {}) })).body.model.id;
    const aliases = async () => (await call('GET', '/v1/aliases')).body.items;
    const byDefault = { name: 'token-reward', model_id: sample.id, default: true };
    await put('zero', own);
    t.match(await aliases(), [byDefault, { name: 'zero', default: false }]);

    t.match(await put('token-reward', own), { status: 200, body: { model_id: own, default: false } });
    t.match(await aliases(), [{ name: 'token-reward', model_id: own, default: false }, { name: 'zero' }]);
    t.equal(await carrier(), own);
    t.equal(await carrier(await server.otherProjectKey()), sample.id, 'other projects keep the sample');

    t.match(await call('DELETE', '/v1/aliases/token-reward'), { status: 204 });
    t.equal(await carrier(), sample.id, 'deleting the alias gives it back');
    t.match(await call('DELETE', '/v1/aliases/token-reward'), {
      status: 409,
      body: { code: 'conflict', detail: /names the shipped sample/ },
    });
    await put('token-reward', own);
    t.match(await put('token-reward', sample.id), { status: 200, body: byDefault });
    t.match(await put('token-reward', sample.id), { status: 200, body: byDefault }, 'twice is once');
    t.equal(await carrier(), sample.id);
    t.match(await aliases(), [byDefault, { name: 'zero' }]);
  });

  t.test('takes no other alias and cannot be deleted', async (t) => {
    t.match(await put('judge', sample.id), {
      status: 422,
      body: { code: 'unprocessable', errors: [{ pointer: '/model_id' }] },
    });
    t.match(await put('token-reward', policy), { status: 422 }, 'and its alias goes to no policy');
    t.match(await call('DELETE', path), {
      status: 409,
      body: { code: 'conflict', detail: /ships with finegrain/ },
    });
    t.match(await call('GET', path), { status: 200 });
  });

  t.test('a run can name it', async (t) => {
    const rows = await call('POST', '/v1/artifacts', {
      body: JSON.stringify({ prompt }),
      headers: { 'content-type': 'application/x-ndjson' },
    });
    const prompts = { prompts: rows.body.digest };
    const ppo = (policy: object, reward_model: object) => ({
      kind: 'ppo',
      spec: { policy, reward_model, prompts },
    });
    const hub = { hub: 'org/name', revision: 'f'.repeat(40) };
    for (const reward of [{ model_id: sample.id }, { alias: 'token-reward' }]) {
      t.match(await call('POST', '/v1/runs', { json: ppo(hub, reward) }), {
        status: 202,
        body: { spec: { reward_model: reward } },
      });
      t.match(
        await call('POST', '/v1/runs', { json: ppo({ model_id: policy }, reward) }),
        { status: 202 },
        'the policy may have another tokenizer',
      );
    }
    const queued = await server.database
      .open('finegrain_system')
      .transaction(null, (tx) => tx.query<{ inputs: object }>('select inputs from finegrain.runs'));
    t.equal(queued.length, 4);
    for (const { inputs } of queued) {
      t.match(inputs, {
        reward_model: {
          model_id: sample.id,
          digest: sample.digest,
          tokenizer_digest: sample.tokenizer_digest,
          files: sample.files,
        },
      });
    }
    for (const { digest } of sample.files) t.ok(await server.services.artifacts.has(digest));
    t.match(
      await call('POST', '/v1/runs', { json: ppo({ model_id: sample.id }, { model_id: sample.id }) }),
      { status: 422, body: { errors: [{ pointer: '/spec/policy' }] } },
      'it is no policy',
    );
  });
});

t.test('a shipped file that was changed is refused, and said; restored, it serves', async (t) => {
  const folder = t.testdir();
  await cp(shippedSampleFolder, folder, { recursive: true });
  const server = await startTestServer(t, { sampleFolder: folder });
  const score = () => server.call('POST', '/v1/score', { json: { prompt, responses: [good] } });
  const file = join(folder, 'tokenizer.json');
  const content = await readFile(file);
  await writeFile(file, content.toString().replaceAll('\n', '\r\n'));
  t.match(await score(), {
    status: 503,
    body: { code: 'unavailable', detail: /tokenizer\.json .* model\.json/ },
  });
  await rm(file);
  t.match(await score(), { status: 503 });
  await writeFile(file, content);
  t.match(await score(), { status: 200 });
});
