import { readFile } from 'node:fs/promises';
import t from 'tap';
import { openApiDocument } from '../../src/openapi.ts';

t.test('openapi/openapi.json is what the routes say', async (t) => {
  const committed = await readFile('openapi/openapi.json', 'utf8');
  t.ok(committed === (await openApiDocument()), 'run `npm run openapi` and commit the result');
});

t.test('every operation of /v1 has an id, a tag, a summary, a description and its errors', async (t) => {
  const { paths } = JSON.parse(await openApiDocument());
  const ids = new Set<string>();
  for (const [path, methods] of Object.entries<Record<string, Operation>>(paths)) {
    if (!path.startsWith('/v1/')) continue;
    for (const [method, operation] of Object.entries(methods)) {
      const name = `${method} ${path}`;
      t.ok(operation.operationId && !ids.has(operation.operationId), `${name} has an operationId of its own`);
      ids.add(operation.operationId);
      t.equal(operation.tags?.length, 1, `${name} has a tag`);
      t.ok(operation.summary && operation.description, `${name} says what it does`);
      t.match(Object.keys(operation.responses), /400|401/, `${name} lists its errors`);
    }
  }
});

interface Operation {
  operationId: string;
  tags?: string[];
  summary?: string;
  description?: string;
  responses: Record<string, unknown>;
}
