// Every route of the document x {no key, wrong key, revoked key, expired key, key without the scope, admin of another
// project, key with just the scope}. Requests are the document's own examples with the ids of real resources in them, so
// a new route is covered without a line here; a new kind of resource needs one in fillService (test/fuzz/service.ts).
import pg from 'pg';
import t from 'tap';
import { scopes } from '../../src/services/context.ts';
import { generateKey } from '../../src/services/keys.ts';
import { fillService } from '../fuzz/service.ts';
import { registerTinyModel } from '../support/models.ts';
import { type RequestOptions, startTestServer, type TestServer } from '../support/server.ts';

interface Operation {
  security?: { key: string[] }[];
  parameters?: {
    name: string;
    in: string;
    required?: boolean;
    example?: unknown;
    schema: { examples?: unknown[] };
  }[];
  requestBody?: { content: Record<string, { example?: unknown }> };
}

interface Route {
  method: string;
  template: string;
  operation: Operation;
}

interface Request {
  path: string;
  options: RequestOptions;
  /** whether it names a resource of the project */
  names: boolean;
}

const publicRoutes = ['GET /healthz', 'GET /metrics', 'GET /readyz'];

t.test('security matrix', async (t) => {
  const server = await startTestServer(t);
  const { call } = server;
  await registerTinyModel(server, { alias: 'token-reward' });
  const ids = { ...(await fillService(server.url, server.bootstrapKey)), name: ['token-reward'] };
  await saveCheckpoint(server, ids);
  const routes = readRoutes((await call('GET', '/openapi.json')).body);
  const stranger = await server.otherProjectKey();
  const ended = await endedKeys(server);
  const everyScope = Object.keys(scopes).filter((scope) => !['admin', 'operator'].includes(scope));
  // what a caller of another project must never see; names and file paths are anybody's
  const secrets = Object.values(ids)
    .flat()
    .filter((value) => isId(value));

  t.test('only the routes named here are public', async (t) => {
    const open = routes.filter(({ operation }) => operation.security?.length === 0);
    t.same(open.map(({ method, template }) => `${method} ${template}`).sort(), publicRoutes);
    for (const { method, template } of open)
      t.equal((await call(method, template, { key: null })).status, 200, template);
  });

  for (const { method, template, operation } of inHarmlessOrder(routes)) {
    if (operation.security?.length === 0) continue;
    t.test(`${method} ${template}`, async (t) => {
      const scope = operation.security?.[0]?.key[0]; // undefined: any valid key will do
      const { path, options, names } = requestOf({ method, template, operation }, ids);
      const send = (key: string | null) => call(method, path, { ...options, key });

      const refusals: [string, string | null][] = [
        ['no key', null],
        ['a wrong key', generateKey()],
        ['a revoked key', ended.revoked],
        ['an expired key', ended.expired],
      ];
      for (const [name, key] of refusals) {
        const answer = await send(key);
        t.match(answer, { status: 401, body: { code: 'unauthenticated' } }, name);
        t.match(
          answer.headers.get('www-authenticate'),
          key === null ? 'Bearer realm="finegrain"' : /^Bearer .*error="invalid_token"/,
        );
      }

      if (scope !== undefined) {
        const others = scope === 'operator' ? ['admin'] : everyScope.filter((other) => other !== scope);
        const answer = await send(await server.keyWith(...others));
        t.match(answer, { status: 403, body: { code: 'missing_scope' } }, `all scopes but ${scope}`);
        t.match(answer.headers.get('www-authenticate'), `error="insufficient_scope", scope="${scope}"`);
      }

      const foreign = await send(stranger);
      if (scope === 'operator') t.equal(foreign.status, 403, 'an admin of another project');
      else if (names && !(method === 'GET' && foreign.body?.items?.length === 0))
        t.match(
          foreign,
          { status: 404, body: { code: 'not_found' } },
          'an admin of another project finds nothing',
        );
      else {
        t.ok(foreign.status < 500, 'an admin of another project');
        t.same(
          secrets.filter((secret) => foreign.text.includes(secret)),
          [],
          'sees nothing of this one',
        );
      }

      // proves that the request itself is good, so that the refusals above are for the key
      const own = await send(
        scope === 'operator' ? server.bootstrapKey : await server.keyWith(scope ?? 'read'),
      );
      t.ok(
        own.status < 300 || own.status === 409 || own.status === 422,
        `a key with just ${scope ?? 'any scope'} is let in: ${own.status} ${own.status < 300 ? '' : own.text}`,
      );
    });
  }
});

/** As a runner would, for the run of fillService: it queues runs and takes none. */
async function saveCheckpoint({ database }: TestServer, ids: Record<string, string[]>): Promise<void> {
  const client = new pg.Client({ connectionString: database.superuserUrl });
  await client.connect();
  const files = ids.checkpoint_file!.map((path) => ({
    path: `checkpoints/step-5/${path}`,
    digest: ids.digest![0],
    bytes: 31,
  }));
  await client.query(
    `insert into finegrain.run_checkpoints (project_id, run_id, step, fence, files)
     select project_id, id, $2, 0, $3 from finegrain.runs where 'run_' || replace(id::text, '-', '') = $1`,
    [ids.run_id![0], ids.step![0], JSON.stringify(files)],
  );
  await client.end();
}

function readRoutes(document: { paths: Record<string, Record<string, Operation>> }): Route[] {
  return Object.entries(document.paths).flatMap(([template, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      method: method.toUpperCase(),
      template,
      operation,
    })),
  );
}

/** What removes comes last, so that all others still find what they name. */
function inHarmlessOrder(routes: Route[]): Route[] {
  return [
    ...routes.filter(({ method }) => method !== 'DELETE'),
    ...routes.filter(({ method }) => method === 'DELETE'),
  ];
}

async function endedKeys(server: TestServer): Promise<{ revoked: string; expired: string }> {
  const create = async (): Promise<{ id: string; key: string }> =>
    (await server.call('POST', '/v1/keys', { json: { name: 'ended', scopes: ['admin'] } })).body;
  const [revoked, expired] = [await create(), await create()];
  await server.call('DELETE', `/v1/keys/${revoked.id}`);
  await server.call('POST', `/v1/keys/${expired.id}/rotate`, { json: { overlap_seconds: 0 } });
  return { revoked: revoked.key, expired: expired.key };
}

const idPattern = /^([a-z]+_[0-9a-f]{32}|sha256:[0-9a-f]{64})$/;
const isId = (value: unknown): value is string => typeof value === 'string' && idPattern.test(value);

/** The example request of a route, with real ids in the place of the examples'. */
function requestOf({ method, template, operation }: Route, ids: Record<string, string[]>): Request {
  const kindOf = (id: string): string => id.split(/[_:]/, 1)[0]!;
  const known = new Map(
    Object.values(ids)
      .flat()
      .filter(isId)
      .reverse()
      .map((id) => [kindOf(id), id]),
  );
  let names = false;
  const announces = template === '/v1/artifact-uploads'; // a digest that names nothing yet
  const withRealIds = (value: unknown): unknown => {
    if (isId(value) && !announces) {
      const real = known.get(kindOf(value));
      if (real === undefined)
        throw new Error(
          `The example of ${method} ${template} names ${value}: make such a resource in fillService.`,
        );
      names = true;
      return real;
    }
    if (Array.isArray(value)) return value.map(withRealIds);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, withRealIds(part)]));
  };

  const path = template.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    const [value] = ids[name] ?? [];
    if (value === undefined)
      throw new Error(
        `${method} ${template} takes {${name}}: make such a resource in fillService and return its id as ${name}.`,
      );
    names ||= isId(value); // a name may be there in every project
    return value;
  });
  const query = new URLSearchParams();
  for (const { name, in: part, required, ...parameter } of operation.parameters ?? []) {
    const example = parameter.example ?? parameter.schema.examples?.[0];
    if (part === 'query' && (required || isId(example))) query.set(name, String(withRealIds(example)));
  }
  const [content] = Object.entries(operation.requestBody?.content ?? {});
  const example = withRealIds(content?.[1].example);
  const options: RequestOptions =
    content === undefined
      ? {}
      : content[0] === 'application/json'
        ? { json: example }
        : { body: String(example), headers: { 'content-type': content[0] } };
  return { path: query.size > 0 ? `${path}?${query}` : path, options, names };
}
