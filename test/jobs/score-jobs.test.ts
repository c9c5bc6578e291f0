// Score jobs in a real worker, which is killed in the middle of them.
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { parseId } from '../../src/domain/ids.ts';
import { registerTinyModel } from '../support/models.ts';
import { isAlive } from '../support/processes.ts';
import { eventually, scorerProcesses } from '../support/scorer-processes.ts';
import { startTestServer } from '../support/server.ts';
import { startWorker } from '../support/worker.ts';

t.setTimeout(240_000);

t.test(
  'a job whose worker is killed again and again ends with the bytes of an undisturbed one',
  async (t) => {
    const server = await startTestServer(t);
    const { call, database, dataDir } = server;
    await registerTinyModel(server, { alias: 'token-reward' });
    const body = Array.from({ length: 8000 }, (_, n) => {
      const row = { id: n, prompt: `Say ${n % 50}.`, response: `Hello ${n}, and ${n * n} more words of it.` };
      return n % 1000 === 999 ? '{"broken"\n' : `${JSON.stringify(row)}\n`;
    }).join('');
    const headers = { 'content-type': 'application/x-ndjson' };
    const upload = async (rows: string): Promise<string> =>
      (await call('POST', '/v1/artifacts', { body: rows, headers })).body.digest;
    const artifact = await upload(body);
    const work = () =>
      startWorker(t, database, {
        FINEGRAIN_DATA_DIR: `${dataDir}/worker`,
        FINEGRAIN_ARTIFACTS: `${dataDir}/artifacts`,
      });
    const create = async (input = artifact) =>
      (await call('POST', '/v1/score-jobs', { json: { input: { artifact: input } } })).body;
    const get = async ({ id }: { id: string }) => (await call('GET', `/v1/score-jobs/${id}`)).body;
    const until = async (
      job: { id: string },
      wanted: (job: { state: string; progress: { done: number } }) => boolean,
    ) => {
      for (let waited = 0; ; waited += 20) {
        const now = await get(job);
        if (wanted(now)) return now;
        if (waited > 120_000) throw new Error(JSON.stringify(now));
        await sleep(20);
      }
    };
    /** As if its lease had run out. */
    const nextSlice = ({ id }: { id: string }) =>
      database
        .open('finegrain_system')
        .transaction(null, (tx) =>
          tx.query('update finegrain.score_jobs set due_at = clock_timestamp() where id = $1', [
            parseId('scoreJob', id),
          ]),
        );

    const first = work();
    const undisturbed = await create();
    const whole = await until(undisturbed, ({ state }) => state !== 'running' && state !== 'queued');
    t.match(whole, { state: 'succeeded', progress: { done: 8000, failed: 8, total: 8000 } }, first.log());

    const job = await create();
    let worker = first;
    let done = 0;
    for (let kills = 0; kills < 3; kills++) {
      ({
        progress: { done },
      } = await until(job, ({ progress }) => progress.done > done + 500));
      const scorers = scorerProcesses(worker.process.pid);
      t.ok(scorers.length <= 1, 'one scorer at most');
      worker.process.kill('SIGKILL');
      t.match(await worker.ended, { signal: 'SIGKILL' });
      await eventually(() => !scorers.some(isAlive)); // it goes with its worker
      done = (await get(job)).progress.done;
      t.ok(done > 0 && done < 8000, `killed after ${done} of 8000 items`);
      worker = work();
      await nextSlice(job);
    }
    const ended = await until(job, ({ state }) => state !== 'running');
    t.match(ended, { state: 'succeeded', progress: whole.progress });
    t.same(ended.result, whole.result, 'byte by byte');

    const last = await create(await upload(body.repeat(6))); // so long that it is not done before the signal comes
    await until(last, ({ progress }) => progress.done > 0);
    worker.process.kill('SIGTERM');
    t.same(await worker.ended, { code: 0, signal: null }, worker.log());
    const left = await get(last);
    t.equal(left.state, 'running');
    t.ok(left.progress.done < 48_000, 'a worker that is asked to stop does not finish the job first');
    const next = work();
    await until(last, ({ progress }) => progress.done > left.progress.done);
    t.match(await call('POST', `/v1/score-jobs/${last.id}/cancel`), { status: 200 }, next.log());
  },
);
