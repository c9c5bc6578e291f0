import { randomBytes } from 'node:crypto';
import t from 'tap';
import { readConfig } from '../../src/config.ts';
import { defaultProjectId as project } from '../../src/services/keys.ts';
import { type SecretKeys, secretKeys } from '../../src/services/sealing.ts';
import { readSecret } from '../../src/services/secrets.ts';
import { startTestServer } from '../support/server.ts';

const value = 'sk-hämlich-0123456789';

t.test('secrets', async (t) => {
  let logged = '';
  const write = (line: string) => {
    logged += line;
  };
  const server = await startTestServer(t, { log: { write } });
  const answers: string[] = [];
  const call: typeof server.call = async (...request) => {
    const answer = await server.call(...request);
    answers.push(answer.text, JSON.stringify([...answer.headers]));
    return answer;
  };
  const put = (name: string, json: unknown, options = {}) =>
    call('PUT', `/v1/secrets/${name}`, { json, ...options });
  // as the worker reads it
  const system = server.database.open('finegrain_system');
  const read = (name: string, keys: SecretKeys | null = server.services.secretKeys, of: string = project) =>
    system.transaction(null, (tx) => readSecret({ secretKeys: keys }, tx, of, name));
  const sql = (text: string, values: unknown[] = []) =>
    system.transaction(null, (tx) => tx.query(text, values));
  const sealedOf = async (name: string) =>
    (await sql('select key_id, sealed from finegrain.secrets where name = $1', [name]))[0]!;

  t.test('happy', async (t) => {
    const created = await put('llm-key', { value });
    t.match(created, { status: 200, body: { name: 'llm-key', created_at: String, updated_at: String } });
    t.same(Object.keys(created.body).sort(), ['created_at', 'name', 'updated_at']);
    t.equal(await read('llm-key'), value);
    await put('a', { value: 'x' });
    t.match((await call('GET', '/v1/secrets')).body.items, [{ name: 'a' }, { name: 'llm-key' }]);
    const replaced = await put('llm-key', { value: 'another' });
    t.equal(replaced.body.created_at, created.body.created_at);
    t.not(replaced.body.updated_at, created.body.updated_at);
    t.equal(await read('llm-key'), 'another');
    t.match(await call('DELETE', '/v1/secrets/llm-key'), { status: 204 });
    t.match(await call('DELETE', '/v1/secrets/a'), { status: 204 });
    t.equal(await read('llm-key'), undefined);
  });

  t.test('at rest: encrypted, never twice the same, and bound to project and name', async (t) => {
    await put('one', { value });
    await put('two', { value });
    const [one, two] = [await sealedOf('one'), await sealedOf('two')];
    t.notOk(one.sealed.toString('latin1').includes('0123456789'));
    t.not(one.sealed.toString('hex'), two.sealed.toString('hex'));
    t.equal(one.sealed.length, Buffer.byteLength(value) + 28);

    const unreadable = { name: 'UnreadableSecret', message: /secret two/ };
    await sql("update finegrain.secrets set sealed = $1 where name = 'two'", [one.sealed]);
    await t.rejects(read('two'), unreadable, 'the row of another name');
    const altered = Buffer.from(two.sealed);
    altered[20]! ^= 1;
    await sql("update finegrain.secrets set sealed = $1 where name = 'two'", [altered]);
    await t.rejects(read('two'), unreadable, 'a row that was altered');
    const stranger = (await server.call('POST', '/v1/projects', { json: { name: 'x' } })).body;
    await put('two', { value: 'theirs' }, { key: stranger.key });
    await sql(`update finegrain.secrets set sealed = $1 where name = 'two' and project_id <> '${project}'`, [
      two.sealed,
    ]);
    const [{ project_id: theirs }] = (await sql(
      `select project_id from finegrain.secrets where name = 'two' and project_id <> '${project}'`,
    )) as [{ project_id: string }];
    await t.rejects(
      read('two', server.services.secretKeys, theirs),
      unreadable,
      'the row of another project',
    );
  });

  t.test('keys rotate: the previous one opens, the current one writes', async (t) => {
    const [oldest, old, current] = [1, 2, 3].map(() => randomBytes(32)) as [Buffer, Buffer, Buffer];
    const { secretKeys: first } = server.services;
    const writeWith = async (keys: SecretKeys | null) => {
      server.services.secretKeys = keys;
      await put('rotated', { value });
      server.services.secretKeys = first;
    };
    await writeWith(secretKeys(old, []));
    const keys = secretKeys(current, [oldest, old]);
    t.equal(await read('rotated', keys), value);
    t.equal((await sealedOf('rotated')).key_id, keys.previous[1]!.id, 'reading writes nothing');
    await writeWith(keys);
    t.equal((await sealedOf('rotated')).key_id, keys.current.id);
    t.equal(await read('rotated', secretKeys(current, [])), value, 'and the old key is not needed any more');
    for (const lost of [secretKeys(old, [oldest]), null])
      await t.rejects(read('rotated', lost), {
        message: new RegExp(`${keys.current.id}.*FINEGRAIN_SECRET_KEY`),
      });
  });

  t.test('error', async (t) => {
    t.match(await put('x', { value: '' }), { status: 400, body: { errors: [{ pointer: '/value' }] } });
    t.match(await put('x', { value: value.repeat(1000) }), { status: 400 });
    t.match(await put('x', { value: { value } }), { status: 400 });
    t.match(await put('x', { value: 'x', also: value }), { status: 400 });
    t.match(await put('x', { value: `${value}\0` }), { status: 422, body: { code: 'ill_formed_text' } });
    const json = { 'content-type': 'application/json' };
    for (const body of [`{"value": "${value}`, `{"value": ${value}}`, value])
      t.match(await call('PUT', '/v1/secrets/x', { body, headers: json }), { status: 400 });
    t.match(
      await call('PUT', '/v1/secrets/x', {
        body: value,
        headers: { 'content-type': 'application/x-www-form-urlencoded' },
      }),
      {
        status: 415,
      },
    );
    t.match(await put('x', { value: value.repeat(500_000) }), { status: 413 });
    for (const name of ['X', '-x', 'x.y', 'x'.repeat(64), 'webhook%2Fx'])
      t.match(await put(name, { value }), { status: 400, body: { errors: [{ in: 'params' }] } }, name);
    t.match(await call('DELETE', '/v1/secrets/missing'), { status: 404, body: { code: 'not_found' } });
  });

  t.test('without a key of the operator nothing can be stored, and all else works', async (t) => {
    await put('kept', { value });
    const { secretKeys: keys } = server.services;
    server.services.secretKeys = null;
    t.teardown(() => {
      server.services.secretKeys = keys;
    });
    t.match(await put('x', { value }), {
      status: 422,
      body: { code: 'unprocessable', detail: /operator sets FINEGRAIN_SECRET_KEY.*32 random bytes/ },
    });
    t.match((await call('GET', '/v1/secrets')).body.items.length > 0, true);
    t.match(await call('DELETE', '/v1/secrets/kept'), { status: 204 });
  });

  t.test('the environment: 32 bytes in base64, and errors do not repeat them', async (t) => {
    const key = randomBytes(32);
    const config = readConfig({
      FINEGRAIN_SECRET_KEY: key.toString('base64'),
      FINEGRAIN_SECRET_KEY_PREVIOUS: `${randomBytes(32).toString('base64')}, ${key.toString('base64')}`,
    });
    t.same(config.secretKey, key);
    t.same(config.previousSecretKeys[1], key);
    t.match(readConfig({}), { secretKey: null, previousSecretKeys: [], outgoingAllow: [] });
    for (const name of ['FINEGRAIN_SECRET_KEY', 'FINEGRAIN_SECRET_KEY_PREVIOUS'])
      for (const wrong of ['c2VjcmV0', key.toString('hex'), randomBytes(31).toString('base64')])
        try {
          readConfig({ [name]: wrong });
          t.fail(`${name}=${wrong}`);
        } catch (error) {
          t.match(error, { message: new RegExp(`^${name} must hold 32 random bytes`) });
          t.notOk(String(error).includes(wrong));
        }
  });

  t.test('security', async (t) => {
    await put('mine', { value });
    const stranger = await server.otherProjectKey();
    t.same((await call('GET', '/v1/secrets', { key: stranger })).body.items, []);
    t.match(await call('DELETE', '/v1/secrets/mine', { key: stranger }), { status: 404 });
    await put('mine', { value: 'theirs' }, { key: stranger });
    t.equal(await read('mine'), value);
  });

  t.test('a value is in no answer and in no line of the log', async (t) => {
    t.ok(answers.length > 60 && logged.split('\n').length > 30, 'there was something to look through');
    for (const text of ['0123456789', 'hämlich', 'h\\u00e4mlich'])
      t.notOk(answers.some((answer) => answer.includes(text)) || logged.includes(text), text);
  });
});
