// The API on a real socket over a cloned database, and a small client that checks every answer against the document.
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type DestinationStream, pino } from 'pino';
import type { Test } from 'tap';
import { type AppOptions, buildApp } from '../../src/app.ts';
import { openOutgoingClient } from '../../src/outgoing/client.ts';
import { openScoringEngine } from '../../src/scoring/engine.ts';
import { openCursors } from '../../src/services/cursors.ts';
import { generateKey } from '../../src/services/keys.ts';
import { modelServerAccess } from '../../src/services/model-servers.ts';
import { openSampleModel } from '../../src/services/sample-model.ts';
import { type SecretKeys, secretKeys } from '../../src/services/sealing.ts';
import { type ArtifactStore, openArtifactStore } from '../../src/storage/artifact-store.ts';
import { type Contract, readContract } from './contract.ts';
import { createTestDatabase, type TestDatabase } from './database.ts';

export interface Answer {
  status: number;
  headers: Headers;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests read what the document promises
  body: any;
}

export interface RequestOptions {
  /** null: no Authorization header; undefined: the bootstrap key */
  key?: string | null;
  json?: unknown;
  body?: string | Uint8Array | ReadableStream;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

export interface TestServer {
  url: string;
  database: TestDatabase;
  app: Awaited<ReturnType<typeof buildApp>>;
  services: AppOptions['services'];
  bootstrapKey: string;
  dataDir: string;
  call(method: string, path: string, options?: RequestOptions): Promise<Answer>;
  /** The admin key of a new project: a stranger to everything made with the bootstrap key. */
  otherProjectKey(): Promise<string>;
  /** A key of the default project with these scopes only. */
  keyWith(...scopes: string[]): Promise<string>;
}

export interface TestServerOptions extends Omit<Partial<AppOptions>, 'services' | 'bootstrapKey' | 'logger'> {
  /** of the sample model; without it the service has none, as an installation without `models/` */
  sampleFolder?: string;
  /** a folder of the test's own, unless it is given */
  artifacts?: ArtifactStore;
  /** null: as when the operator gave none; undefined: made for the test */
  keys?: SecretKeys | null;
  /** of scoring */
  scoringLimits?: Partial<Parameters<typeof openScoringEngine>[0]>;
  /** gets everything that the service logs, at its most talkative */
  log?: DestinationStream;
}

/** No rate limits unless they are given. Webhooks may reach this machine. */
export async function startTestServer(
  t: Test,
  {
    sampleFolder,
    keys = secretKeys(randomBytes(32), []),
    log,
    artifacts: given,
    scoringLimits = {},
    ...options
  }: TestServerOptions = {},
): Promise<TestServer> {
  const dataDir = await mkdtemp(join(tmpdir(), 'finegrain-test-'));
  t.teardown(() => rm(dataDir, { recursive: true, force: true }));
  const database = await createTestDatabase(t);
  const artifacts = given ?? openArtifactStore(join(dataDir, 'artifacts'));
  const logger = log
    ? pino({ level: 'trace' }, log)
    : pino({ level: process.env.TEST_LOG_LEVEL ?? 'silent' });
  const db = database.open('finegrain_api');
  const outgoing = openOutgoingClient({ allow: ['127.0.0.0/8'] });
  const scoring = openScoringEngine({
    modelCacheFolder: join(dataDir, 'models'),
    artifacts,
    servers: modelServerAccess({ db, outgoing, secretKeys: keys }),
    log: logger,
    maxScorers: 2,
    memoryBytes: 4 * 1024 ** 3,
    ...scoringLimits,
  });
  const sample = sampleFolder === undefined ? null : await openSampleModel(sampleFolder, artifacts);
  const services = {
    db,
    artifacts,
    cursors: openCursors(),
    scoring,
    sample,
    secretKeys: keys,
    outgoing,
  };
  const bootstrapKey = generateKey();
  const app = await buildApp({ services, bootstrapKey, logger, ...options });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  t.teardown(async () => {
    await app.close();
    await scoring.close();
    await outgoing.close();
  });

  const contract: Contract = readContract(app.swagger() as never);
  const call: TestServer['call'] = async (
    method,
    path,
    { key = bootstrapKey, json, body, headers = {}, signal } = {},
  ) => {
    const response = await fetch(url + path, {
      method,
      headers: {
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        ...(json === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(json !== undefined
        ? { body: JSON.stringify(json) }
        : body !== undefined
          ? { body, duplex: 'half' }
          : {}),
      ...(signal ? { signal } : {}),
    } as RequestInit);
    const text = await response.text();
    const mediaType = response.headers.get('content-type')?.split(';')[0] ?? '';
    const parsed = text !== '' && /\bjson$/.test(mediaType) ? JSON.parse(text) : undefined;
    const violation = contract.violation(method, path, response.status, mediaType, parsed);
    if (violation) throw new Error(violation);
    return {
      status: response.status,
      headers: response.headers,
      text,
      body: parsed,
    };
  };

  return {
    url,
    app,
    database,
    services,
    bootstrapKey,
    dataDir,
    call,
    async otherProjectKey() {
      return (await call('POST', '/v1/projects', { json: { name: 'other' } })).body.key;
    },
    async keyWith(...scopes) {
      return (await call('POST', '/v1/keys', { json: { name: 'test', scopes } })).body.key;
    },
  };
}
