// The worker process: takes jobs as its own database role, queues lost runs again, forgets old answers, collects
// artifacts, stops in order.
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { selectRun } from '../../src/db/runs.ts';
import { openSampleModel, shippedSampleFolder } from '../../src/services/sample-model.ts';
import { openArtifactStore } from '../../src/storage/artifact-store.ts';
import { createTestDatabase } from '../support/database.ts';
import { claimAs, queueRow } from '../support/queue.ts';
import { startWorker } from '../support/worker.ts';

const project = '00000000-0000-7000-8000-000000000000';
const id = '00000000-0000-7000-8000-000000000001';

t.test('worker', { timeout: 60_000 }, async (t) => {
  const database = await createTestDatabase(t);
  const api = database.open('finegrain_api');
  await api.transaction(project, (tx) => queueRow(tx, project, id));
  await database
    .open('finegrain_runner')
    .transaction(null, (tx) => claimAs(tx, 'gone', { leaseSeconds: 0.01 }));
  await sleep(20);

  await api.transaction(project, (tx) =>
    tx.query(
      `insert into finegrain.idempotency_keys (project_id, key, request_sha256, status, headers, body, created_at)
       select $1, key, sha256(''), 201, '{}', null, now() - age::interval
       from (values ('old', '24 hours 1 second'), ('young', '23 hours')) as v (key, age)`,
      [project],
    ),
  );

  const folder = t.testdir();
  const artifacts = openArtifactStore(folder);
  const unnamed = await artifacts.put(Readable.from(['nothing names this']));
  const sample = await openSampleModel(shippedSampleFolder, artifacts);
  await sample!.store();

  const worker = startWorker(t, database, {
    FINEGRAIN_ARTIFACTS: folder,
    FINEGRAIN_ARTIFACT_GRACE_HOURS: '0',
  });

  // what its crontab does by the clock
  for (const job of ['reap-lost-attempts', 'forget-answers', 'collect-artifacts'])
    await database
      .open('finegrain_system')
      .transaction(null, (tx) => tx.query('select graphile_worker.add_job($1)', [job]));
  const state = async () => (await api.transaction(project, (tx) => selectRun(tx, id)))!.state;
  for (let waited = 0; (await state()) !== 'queued' && waited < 30_000; waited += 50) await sleep(50);
  t.equal(await state(), 'queued');

  const answers = () =>
    api.transaction(project, (tx) => tx.query('select key from finegrain.idempotency_keys order by key'));
  for (let waited = 0; (await answers()).length > 1 && waited < 30_000; waited += 50) await sleep(50);
  t.same(await answers(), [{ key: 'young' }]);

  for (let waited = 0; (await artifacts.has(unnamed.digest)) && waited < 30_000; waited += 50)
    await sleep(50);
  t.notOk(await artifacts.has(unnamed.digest));
  for (const { digest, path } of sample!.row.files)
    t.ok(await artifacts.has(digest), `${path} of the shipped sample stays`);

  worker.process.kill('SIGTERM');
  t.same(await worker.ended, { code: 0, signal: null }, worker.log());
});
