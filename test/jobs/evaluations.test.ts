// Evaluations in a real worker, which is killed in the middle of them.
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { parseId } from '../../src/domain/ids.ts';
import { registerTinyModel } from '../support/models.ts';
import { startTestServer } from '../support/server.ts';
import { startWorker } from '../support/worker.ts';

t.setTimeout(240_000);

t.test('a worker that is killed again and again leaves the verdicts of an undisturbed one', async (t) => {
  const server = await startTestServer(t);
  const { call, database, dataDir } = server;
  await registerTinyModel(server, { alias: 'token-reward' });
  const work = () =>
    startWorker(t, database, {
      FINEGRAIN_DATA_DIR: `${dataDir}/worker`,
      FINEGRAIN_ARTIFACTS: `${dataDir}/artifacts`,
    });
  const rows = (text: (n: number) => string) =>
    Array.from({ length: 1500 }, (_, n) => ({ id: `item-${n}`, prompt: `Say ${n % 7}.`, response: text(n) }));
  const create = async (candidates = 1) =>
    (
      await call('POST', '/v1/evaluations', {
        json: {
          candidates: Array.from({ length: candidates }, (_, k) => ({
            responses: rows((n) => `Hello ${n}, and ${n * n + k} more words of it.`),
          })),
          baseline: { responses: rows((n) => `Well, ${n * n} words and ${n}.`) },
          judge: { kind: 'reward' },
        },
      })
    ).body;
  const get = async ({ id }: { id: string }) => (await call('GET', `/v1/evaluations/${id}`)).body;
  const until = async (
    one: { id: string },
    wanted: (one: { state: string; progress: { judged: number } }) => boolean,
  ) => {
    for (let waited = 0; ; waited += 20) {
      const now = await get(one);
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
        tx.query('update finegrain.evaluations set due_at = clock_timestamp() where id = $1', [
          parseId('evaluation', id),
        ]),
      );
  const tableOf = async ({ id }: { id: string }) =>
    (await call('GET', `/v1/evaluations/${id}/export?format=csv`)).text;

  let worker = work();
  const undisturbed = await create();
  const ended = await until(undisturbed, ({ state }) => state === 'succeeded');
  t.match(ended.progress, { items: 1500, judged: 1500, nulls: 0, total: 1500 }, worker.log());

  const one = await create();
  let judged = 0;
  for (let kills = 0; kills < 2; kills++) {
    ({
      progress: { judged },
    } = await until(one, ({ progress }) => progress.judged > judged + 50));
    worker.process.kill('SIGKILL');
    t.match(await worker.ended, { signal: 'SIGKILL' });
    judged = (await get(one)).progress.judged;
    t.ok(judged < 1500, `killed after ${judged} of 1500 judgements`);
    worker = work();
    await nextSlice(one);
  }
  await until(one, ({ state }) => state === 'succeeded');
  t.equal(await tableOf(one), await tableOf(undisturbed), 'each pair once, with the same verdict');

  const stopped = await create(8); // so long that it is not done before the signal comes
  await until(stopped, ({ progress }) => progress.judged > 0);
  worker.process.kill('SIGTERM');
  t.same(await worker.ended, { code: 0, signal: null }, worker.log());
  t.match(await get(stopped), { state: 'judging' }, 'a worker that is asked to stop does not finish first');
  t.match(await call('POST', `/v1/evaluations/${stopped.id}/cancel`), { body: { state: 'cancelled' } });
});
