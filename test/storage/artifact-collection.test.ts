// The collector deletes what no row names, and nothing else, whatever happens at the same time.
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import t, { type Test } from 'tap';
import { holdDigests } from '../../src/db/named-digests.ts';
import { collectArtifacts } from '../../src/services/artifact-collection.ts';
import { ArtifactsGone, holdArtifacts, untilNamed } from '../../src/services/named-artifacts.ts';
import { type ArtifactStore, openArtifactStore } from '../../src/storage/artifact-store.ts';
import { openS3Store } from '../../src/storage/s3-store.ts';
import { createTestDatabase, type TestDatabase } from '../support/database.ts';
import { createBucket, useS3Server } from '../support/s3.ts';

t.setTimeout(240_000);

const digestOf = (content: string): string => `sha256:${createHash('sha256').update(content).digest('hex')}`;
const put = (store: ArtifactStore, content: string) => store.put([content] as never);
const now = { graceSeconds: 0, spared: new Set<string>() };

async function installation(t: Test) {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-collection-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const database = await createTestDatabase(t);
  const superuser = new pg.Client({ connectionString: database.superuserUrl });
  await superuser.connect();
  t.teardown(() => superuser.end());
  const newProject = async (id: string = randomUUID()): Promise<string> => {
    await superuser.query("insert into finegrain.projects (id, name) values ($1, 'race')", [id]);
    return id;
  };
  return {
    folder,
    database,
    superuser,
    newProject,
    artifacts: openArtifactStore(folder),
    db: database.open('finegrain_system'),
  };
}

t.test('whatever names a digest keeps its content', async (t) => {
  const { artifacts, db, superuser, newProject } = await installation(t);
  const project = await newProject();
  const id = randomUUID();
  const files = (...contents: string[]) =>
    JSON.stringify(contents.map((content) => ({ path: 'a/b', digest: digestOf(content), bytes: 1 })));
  const { rows: columns } = await superuser.query(
    "select relation::text || '.' || attribute as name from finegrain.digest_columns order by 1",
  );
  const rows: [place: string, sql: string, values: unknown[]][] = [
    [
      'finegrain.artifacts.digest',
      "insert into finegrain.artifacts values ($1, $2, 1, 'text/plain')",
      [project, digestOf('finegrain.artifacts.digest')],
    ],
    [
      'finegrain.snapshots.digest',
      "insert into finegrain.snapshots (project_id, id, digest, dataset_ids, split, counts, rules) values ($1, $2, $3, '{}', '{}', '{}', '{}')",
      [project, id, digestOf('finegrain.snapshots.digest')],
    ],
    [
      'finegrain.models.files',
      "insert into finegrain.models (project_id, id, name, role, digest, tokenizer_digest, files) values ($1, $2, 'm', 'policy', 'd', $3, $4)",
      [
        project,
        id,
        digestOf('finegrain.models.tokenizer_digest'),
        files('finegrain.models.files', 'another'),
      ],
    ],
    [
      'finegrain.runs.inputs',
      "insert into finegrain.runs (project_id, id, kind, spec, inputs, artifacts, max_attempts) values ($1, $2, 'sft', '{}', $3, $4, 1)",
      [
        project,
        id,
        JSON.stringify({ data: { rows: digestOf('finegrain.runs.inputs') } }),
        files('finegrain.runs.artifacts'),
      ],
    ],
    [
      'finegrain.run_checkpoints.files',
      'insert into finegrain.run_checkpoints (project_id, run_id, step, fence, files) values ($1, $2, 1, 1, $3)',
      [project, id, files('finegrain.run_checkpoints.files')],
    ],
    [
      'finegrain.run_rollouts.digest',
      'insert into finegrain.run_rollouts (project_id, run_id, step, fence, digest, bytes, row_count) values ($1, $2, 1, 1, $3, 1, 1)',
      [project, id, digestOf('finegrain.run_rollouts.digest')],
    ],
    [
      'finegrain.run_logs.digest',
      `with attempt as (
         insert into finegrain.run_attempts (project_id, run_id, fence, runner, lease_expires_at)
         values ($1, $2, 1, 'r', now()))
       insert into finegrain.run_logs (project_id, run_id, fence, line_count, newest, digest, bytes, complete)
       values ($1, $2, 1, 0, '{}', $3, 1, true)`,
      [project, id, digestOf('finegrain.run_logs.digest')],
    ],
    [
      'finegrain.score_jobs.inputs',
      `insert into finegrain.score_jobs (project_id, id, state, request, inputs, source_bytes, result, due_at, finished_at)
       values ($1, $2, 'succeeded', '{}', $3, 1, $4, null, now())`,
      [
        project,
        id,
        JSON.stringify({ source: digestOf('finegrain.score_jobs.inputs') }),
        JSON.stringify({ digest: digestOf('finegrain.score_jobs.result') }),
      ],
    ],
    [
      'finegrain.score_job_parts.digest',
      'insert into finegrain.score_job_parts (project_id, score_job_id, number, digest) values ($1, $2, 1, $3)',
      [project, id, digestOf('finegrain.score_job_parts.digest')],
    ],
    [
      'finegrain.evaluations.inputs',
      "insert into finegrain.evaluations (project_id, id, judge, request, inputs) values ($1, $2, 'external', '{}', $3)",
      [project, id, JSON.stringify({ sources: [{ rows: digestOf('finegrain.evaluations.inputs') }] })],
    ],
  ];
  const named = [...columns.map(({ name }) => name as string), 'another'];
  for (const content of [...named, 'unnamed', 'spared']) await put(artifacts, content);
  await superuser.query('alter table finegrain.snapshots drop constraint snapshots_project_id_digest_fkey');
  for (const [, sql, values] of rows) await superuser.query(sql, values);

  const spared = new Set([digestOf('spared')]);
  const found = await collectArtifacts({ db, artifacts }, { graceSeconds: 3600, spared });
  t.match(found, { examined: named.length + 2, deleted: 0 }, 'what is young stays');
  t.match(await collectArtifacts({ db, artifacts }, { graceSeconds: 0, spared }), {
    deleted: 1,
    deletedBytes: 'unnamed'.length,
  });
  t.notOk(await artifacts.has(digestOf('unnamed')));
  for (const content of [...named, 'spared']) t.ok(await artifacts.has(digestOf(content)), content);

  await superuser.query('delete from finegrain.run_checkpoints');
  await superuser.query('delete from finegrain.models');
  t.match(await collectArtifacts({ db, artifacts }, { graceSeconds: 0, spared }), { deleted: 4 });
  t.notOk(await artifacts.has(digestOf('finegrain.run_checkpoints.files')));
});

t.test('who is about to name a digest is not disturbed, and does not wait', async (t) => {
  const { artifacts, db, database, newProject } = await installation(t);
  const project = await newProject();
  const { digest } = await put(artifacts, 'held');
  await put(artifacts, 'not held');
  const api = database.open('finegrain_api');
  await api.transaction(project, async (tx) => {
    await holdArtifacts(tx, artifacts, [digest]);
    t.match(await collectArtifacts({ db, artifacts }, now), { examined: 2, deleted: 1 });
    t.ok(await artifacts.has(digest), 'it is passed over');
  });
  t.match(await collectArtifacts({ db, artifacts }, now), { deleted: 1 }, 'and goes when nobody wants it');
  await t.rejects(
    api.transaction(project, (tx) => holdArtifacts(tx, artifacts, [digest])),
    ArtifactsGone,
    'from then on it cannot be named unseen',
  );
  let stored = 0;
  await untilNamed(async () => {
    if (stored++ > 0) await put(artifacts, 'held');
    await api.transaction(project, (tx) => holdArtifacts(tx, artifacts, [digest]));
  });
  t.equal(stored, 2, 'and is stored again');
});

t.test('a collector that stops in the middle keeps its digests until it is gone', async (t) => {
  const { artifacts, db, database, newProject } = await installation(t);
  const project = await newProject();
  const { digest } = await put(artifacts, 'condemned');
  let goOn = (): void => {};
  const frozen = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  let reached = (): void => {};
  const removing = new Promise<void>((resolve) => {
    reached = resolve;
  });
  const slow: ArtifactStore = {
    ...artifacts,
    async remove(digests) {
      reached();
      await frozen;
      await artifacts.remove(digests);
    },
  };
  const collecting = collectArtifacts({ db, artifacts: slow }, now);
  await removing;
  let held = false;
  const holding = database.open('finegrain_api').transaction(project, async (tx) => {
    await holdDigests(tx, [digest]);
    held = true;
    return artifacts.has(digest);
  });
  await sleep(300);
  t.notOk(held, 'who wants to name it waits');
  goOn();
  await collecting;
  t.equal(await holding, false, 'and then sees that it is gone');
});

interface Told {
  rounds: number;
  deleted: number;
  named: number;
  again: number;
  missing: string[];
}

interface Standing {
  collector: Told;
  writers: Told[];
  named: number;
  missing: number;
}

/** A collector that never rests, against two processes that put and name the same few contents. */
async function race(
  database: TestDatabase,
  folder: string,
  projects: string[],
  enough: (standing: Standing) => boolean,
): Promise<Standing> {
  const told: Told[] = [];
  const urls = [database.urlOf('finegrain_system'), database.urlOf('finegrain_api')];
  const start = (part: string, project = ''): ChildProcess => {
    const child = spawn(
      process.execPath,
      ['dist/test/support/collection-race.js', part, folder, ...urls, project],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const place = told.push({ rounds: 0, deleted: 0, named: 0, again: 0, missing: [] }) - 1;
    createInterface(child.stdout!).on('line', (line) => {
      told[place] = JSON.parse(line);
    });
    return child;
  };
  const standing = (): Standing => {
    const [collector, ...writers] = told;
    const named = writers.reduce((sum, { named }) => sum + named, 0);
    const missing = writers.reduce((sum, { missing }) => sum + missing.length, 0);
    return { collector: collector!, writers, named, missing };
  };
  const children = [start('collect'), ...projects.map((project) => start('write', project))];
  const ended = children.map((child) => once(child, 'close'));
  const end = Date.now() + 90_000;
  while (!enough(standing()) && Date.now() < end) await sleep(50);
  for (const child of children) child.kill('SIGTERM');
  await Promise.all(ended);
  return standing();
}

t.test('no row that lives names content that is missing, however fast the collector is', async (t) => {
  const { database, folder, superuser, newProject } = await installation(t);
  const projects = ['00000000-0000-7000-8000-000000000001', '00000000-0000-7000-8000-000000000002'];
  for (const id of projects) await newProject(id);
  const { collector, writers, named, missing } = await race(
    database,
    folder,
    projects,
    ({ collector, named }) => collector.deleted >= 50 && named >= 200,
  );
  const again = writers.reduce((sum, { again }) => sum + again, 0);
  t.comment(
    `${collector.rounds} rounds deleted ${collector.deleted}; ${named} were named, after being stored again ${again} times`,
  );
  t.ok(collector.deleted >= 50, 'the collector had something to do');
  t.ok(again > 0, 'and was in the way');
  t.equal(missing, 0);

  // the same race, once those who name hold nothing any more: else this test would prove nothing
  await superuser.query(`create or replace function finegrain.hold_digests(digests text[]) returns void
    language plpgsql set search_path = finegrain, pg_temp as $$ begin end $$`);
  const without = await race(database, folder, projects, ({ missing }) => missing > 0);
  t.comment(`without the lock, content was missing after ${without.named} were named`);
  t.ok(without.missing > 0, 'without the lock it is lost');
});

const endpoint = await useS3Server(t);
t.test('in a bucket, too', { skip: endpoint === null && 'there is no S3 server' }, async (t) => {
  const { db, folder, database, newProject } = await installation(t);
  const project = await newProject();
  const bucket = await createBucket(t, endpoint!);
  const artifacts = openS3Store(bucket, { cache: { folder: join(folder, 'cache'), bytes: 1e6 } });
  for (const content of ['named', 'unnamed', 'unnamed too']) await put(artifacts, content);
  await database
    .open('finegrain_api')
    .transaction(project, (tx) =>
      tx.query("insert into finegrain.artifacts values ($1, $2, 5, 'text/plain')", [
        project,
        digestOf('named'),
      ]),
    );
  t.match(await collectArtifacts({ db, artifacts }, { ...now, graceSeconds: 3600 }), {
    examined: 3,
    deleted: 0,
  });
  await sleep(1100); // its times are whole seconds
  t.match(await collectArtifacts({ db, artifacts }, now), { examined: 3, deleted: 2 });
  t.ok(await artifacts.has(digestOf('named')));
});

t.test('uploads that have expired go, with what has arrived of them', async (t) => {
  const { artifacts, db, superuser, newProject, folder } = await installation(t);
  const project = await newProject();
  const [expired, live, forgotten] = [randomUUID(), randomUUID(), randomUUID()];
  for (const id of [expired, live, forgotten]) {
    await artifacts.uploads.begin(id);
    await utimes(join(folder, 'incoming', `upload-${id}`), 0, 0);
  }
  for (const [id, expires] of [
    [expired, '-1 second'],
    [live, '1 hour'],
  ])
    await superuser.query(
      `insert into finegrain.artifact_uploads (project_id, id, digest, bytes, part_bytes, media_type, expires_at)
       values ($1, $2, $3, 1, 1, 'text/plain', now() + $4::interval)`,
      [project, id, digestOf('x'), expires],
    );
  t.match(await collectArtifacts({ db, artifacts }, now), { leftovers: 2 });
  t.equal(
    (await artifacts.uploads.parts({ id: live, reference: null })).size,
    0,
    'the live one is still there',
  );
  await t.rejects(artifacts.uploads.parts({ id: expired, reference: null }));
  t.same(
    (await superuser.query('select id from finegrain.artifact_uploads')).rows.map(({ id }) => id),
    [live],
  );
});
