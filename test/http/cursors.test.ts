// Cursors: pages skip and repeat nothing while rows come and go, and a cursor is good for its own list only.
import fc from 'fast-check';
import t from 'tap';
import { buildApp } from '../../src/app.ts';
import { openCursors } from '../../src/services/cursors.ts';
import { startTestServer } from '../support/server.ts';

t.test('cursors', { timeout: 120_000 }, async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  const newDataset = async (key?: string): Promise<string> =>
    (await call('POST', '/v1/datasets', { json: { name: 'd' }, ...(key === undefined ? {} : { key }) })).body
      .id;
  let made = 0;
  const addPairs = async (dataset: string, count: number): Promise<string[]> => {
    const pairs = Array.from({ length: count }, () => ({
      prompt: `prompt ${made++}`,
      response_a: 'a',
      response_b: 'b',
    }));
    const { body } = await call('POST', `/v1/datasets/${dataset}/pairs`, { json: { pairs } });
    return body.items.map(({ id }: { id: string }) => id);
  };

  t.test('pages hold every lasting row once, whatever is added and deleted between them', async (t) => {
    const between = fc.record({
      limit: fc.integer({ min: 1, max: 7 }),
      added: fc.integer({ min: 0, max: 4 }),
      deleted: fc.array(fc.nat(), { maxLength: 4 }),
    });
    const walk = async (rows: number, steps: { limit: number; added: number; deleted: number[] }[]) => {
      const dataset = await newDataset();
      const present = await addPairs(dataset, rows);
      const lasting = new Set(present);
      const seen: string[] = [];
      let cursor: string | null = null;
      for (let page = 0; page === 0 || cursor !== null; page++) {
        const { limit, added, deleted } = steps[page % steps.length]!;
        const query: string = cursor === null ? '' : `&cursor=${cursor}`;
        const { status, body } = await call('GET', `/v1/datasets/${dataset}/pairs?limit=${limit}${query}`);
        t.equal(status, 200);
        seen.push(...body.items.map(({ id }: { id: string }) => id));
        cursor = body.next_cursor;
        if (page > 100) throw new Error('the pages do not end');
        if (page < 10 && added > 0) present.push(...(await addPairs(dataset, added)));
        for (const at of deleted) {
          if (present.length === 0) break;
          // often the very row that the cursor holds
          const last = seen.at(-1);
          const id = at % 2 === 0 && last && present.includes(last) ? last : present[at % present.length]!;
          present.splice(present.indexOf(id), 1);
          lasting.delete(id);
          await call('DELETE', `/v1/pairs/${id}`);
        }
      }
      t.equal(new Set(seen).size, seen.length, 'none twice');
      t.same(
        [...lasting].filter((id) => !seen.includes(id)),
        [],
        'none skipped',
      );
      t.same(seen, [...seen].sort(), 'in one order');
    };
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 25 }),
        fc.array(between, { minLength: 1, maxLength: 8 }),
        walk,
      ),
      { numRuns: 12, seed: 6 },
    );
  });

  const invalid = {
    status: 422,
    body: { code: 'invalid_cursor', errors: [{ pointer: '/cursor', in: 'query' }] },
  };
  const dataset = await newDataset();
  await addPairs(dataset, 3);
  for (let n = 0; n < 3; n++) await newDataset();
  const cursorOf = async (path: string, key?: string): Promise<string> =>
    (await call('GET', path, key === undefined ? {} : { key })).body.next_cursor;
  const next = (path: string, cursor: string, key?: string) =>
    call(
      'GET',
      `${path}${path.includes('?') ? '&' : '?'}cursor=${encodeURIComponent(cursor)}`,
      key ? { key } : {},
    );

  t.test('one changed bit, and the cursor is none', async (t) => {
    const cursor = await cursorOf('/v1/datasets?limit=1');
    t.match(await next('/v1/datasets', cursor), { status: 200 }, 'with another limit');
    const bytes = Buffer.from(cursor, 'base64url');
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const changed = Buffer.from(bytes);
      changed[bit >> 3]! ^= 1 << (bit & 7);
      t.match(await next('/v1/datasets', changed.toString('base64url')), invalid, `bit ${bit}`);
    }
    const others = [
      '',
      'x',
      cursor.slice(0, -1),
      `${cursor}A`,
      `${cursor}=`,
      ` ${cursor}`,
      `${cursor}\n`,
      cursor.replace(/.$/, (last) => String.fromCharCode(last.charCodeAt(0) ^ 1)),
      Buffer.from('019356f0-a1b2-7c3d-8e4f-5a6b7c8d9e0f').toString('base64url'),
      bytes.subarray(0, 16).toString('base64url'),
      'A'.repeat(44),
    ];
    for (const other of others) t.match(await next('/v1/datasets', other), invalid, JSON.stringify(other));
  });

  t.test('it is bound to the list, its filters and the project', async (t) => {
    const cursor = await cursorOf('/v1/datasets?limit=1');
    t.match(await next('/v1/datasets?archived=true', cursor), invalid, 'other filters');
    t.match(
      await next('/v1/datasets?archived=false', cursor),
      { status: 200 },
      'the same filter, spelled out',
    );
    const { paths } = (await call('GET', '/openapi.json')).body;
    for (const [path, { get }] of Object.entries<{ get?: { parameters?: { name: string }[] } }>(paths)) {
      if (path.includes('{') || path === '/v1/datasets') continue;
      if (!get?.parameters?.some(({ name }) => name === 'cursor')) continue;
      t.match(await next(path, cursor), invalid, path);
    }
    const pairs = `/v1/datasets/${dataset}/pairs`;
    const ofPairs = await cursorOf(`${pairs}?limit=1`);
    t.match(await next(pairs, ofPairs), { status: 200 });
    const another = await newDataset();
    t.match(await next(`/v1/datasets/${another}/pairs`, ofPairs), invalid, 'the pairs of another dataset');
    const stranger = await server.otherProjectKey();
    t.match(await next('/v1/datasets', cursor, stranger), invalid, 'another project');
    const reader = await server.keyWith('read');
    t.match(await next('/v1/datasets', cursor, reader), { status: 200 }, 'another key of the project');
  });

  t.test('every process on the database takes it', async (t) => {
    const app = await buildApp({
      services: { ...server.services, cursors: openCursors() },
      bootstrapKey: server.bootstrapKey,
    });
    t.teardown(() => app.close());
    const url = await app.listen({ host: '127.0.0.1', port: 0 });
    const cursor = await cursorOf('/v1/datasets?limit=1');
    const there = await fetch(`${url}/v1/datasets?limit=1&cursor=${cursor}`, {
      headers: { authorization: `Bearer ${server.bootstrapKey}` },
    });
    const { body } = await next('/v1/datasets?limit=1', cursor);
    t.same(await there.json(), body);
  });
});
