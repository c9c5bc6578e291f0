import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import t from 'tap';
import { registerTinyModel, tinyModelFolder } from '../support/models.ts';
import { startTestServer } from '../support/server.ts';

t.test('models', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const reward = await registerTinyModel(server, { alias: 'token-reward' });
  const policy = await registerTinyModel(server, { role: 'policy' });

  t.test('happy', async (t) => {
    const got = await call('GET', `/v1/models/${reward}`);
    t.match(got, {
      status: 200,
      body: {
        id: reward,
        name: 'tiny',
        role: 'token_reward',
        digest: /^sha256:/,
        metrics: { pair_accuracy: 0.5 },
        run_id: null,
      },
    });
    t.same((await call('GET', '/v1/models/token-reward')).body, got.body, 'by alias');
    const ids = async (query: string) =>
      (await call('GET', `/v1/models${query}`)).body.items.map((model: { id: string }) => model.id);
    t.same(await ids(''), [reward, policy]);
    t.same(await ids('?role=policy'), [policy]);
    t.same(await ids('?role=sequence_reward'), []);
    const first = (await call('GET', '/v1/models?limit=1')).body;
    t.same(await ids(`?limit=1&cursor=${first.next_cursor}`), [policy]);
  });

  t.test('files come back as they were registered', async (t) => {
    const { files } = (await call('GET', `/v1/models/${reward}`)).body;
    t.ok(files.some(({ path }: { path: string }) => path === 'reward.onnx'));
    for (const { path, digest, bytes } of files) {
      const response = await fetch(`${server.url}/v1/models/token-reward/files/${path}`, {
        headers: { authorization: `Bearer ${server.bootstrapKey}` },
      });
      const content = Buffer.from(await response.arrayBuffer());
      t.equal(response.status, 200);
      t.equal(response.headers.get('content-type'), 'application/octet-stream');
      t.equal(response.headers.get('etag'), `"${digest}"`);
      t.equal(content.length, bytes);
      t.equal(`sha256:${createHash('sha256').update(content).digest('hex')}`, digest);
      t.ok(content.equals(await readFile(new URL(path, tinyModelFolder))));
    }
  });

  t.test('delete', async (t) => {
    t.match(await call('DELETE', `/v1/models/${reward}`), {
      status: 409,
      body: { code: 'conflict', detail: /carries the alias token-reward/ },
    });
    t.match(await call('DELETE', `/v1/models/${policy}`), { status: 204, text: '' });
    t.match(await call('GET', `/v1/models/${policy}`), { status: 404 });
    t.match(await call('DELETE', `/v1/models/${policy}`), { status: 404, body: { code: 'not_found' } });
    t.match(await call('DELETE', '/v1/models/token-reward'), { status: 404 }, 'an alias is no id');
  });

  t.test('errors', async (t) => {
    t.match(await call('GET', '/v1/models/nothing'), { status: 404, body: { code: 'not_found' } });
    t.match(await call('GET', '/v1/models?role=judge'), { status: 400, body: { errors: [{ in: 'query' }] } });
    t.match(await call('GET', '/v1/models?limit=0'), { status: 400 });
    t.match(await call('GET', '/v1/models?cursor=x'), { status: 422, body: { code: 'invalid_cursor' } });
    t.match(await call('GET', '/v1/models/token-reward/files/weights.bin'), {
      status: 404,
      body: { detail: /it has config\.json, finegrain\.json/ },
    });
    for (const path of ['..%2F..%2Fapi-key', '%2Fetc%2Fpasswd', '']) {
      t.match(await call('GET', `/v1/models/token-reward/files/${path}`), { status: 404 });
    }
    t.match(await call('POST', `/v1/models/${reward}`), { status: 405 });
  });

  t.test('security', async (t) => {
    const key = await server.otherProjectKey();
    t.same((await call('GET', '/v1/models', { key })).body.items, []);
    for (const [method, path] of [
      ['GET', `/v1/models/${reward}`],
      ['GET', '/v1/models/token-reward'],
      ['GET', `/v1/models/${reward}/files/config.json`],
      ['DELETE', `/v1/models/${reward}`],
    ] as const) {
      t.match(await call(method, path, { key }), { status: 404 }, `${method} ${path} of another project`);
    }
  });
});
