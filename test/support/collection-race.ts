// One process of the race between those who name artifacts and the collector:
//   collection-race.ts collect|write FOLDER SYSTEM_URL API_URL PROJECT
// until it is sent SIGTERM. It prints a line of JSON now and then, and at its end.
import { setTimeout as sleep } from 'node:timers/promises';
import { insertArtifact } from '../../src/db/artifacts.ts';
import { openDatabase } from '../../src/db/pool.ts';
import { collectArtifacts } from '../../src/services/artifact-collection.ts';
import { holdArtifacts, untilNamed } from '../../src/services/named-artifacts.ts';
import { openArtifactStore } from '../../src/storage/artifact-store.ts';

const [part, folder, systemUrl, apiUrl, project] = process.argv.slice(2) as [
  string,
  string,
  string,
  string,
  string,
];
const artifacts = openArtifactStore(folder);
const told = { rounds: 0, deleted: 0, named: 0, again: 0, missing: [] as string[] };
let stopped = false;
process.once('SIGTERM', () => {
  stopped = true;
});

async function collect(): Promise<void> {
  const db = openDatabase(systemUrl, 'finegrain_system', { max: 2 });
  while (!stopped) {
    const { deleted } = await collectArtifacts({ db, artifacts }, { graceSeconds: 0, spared: new Set() });
    told.rounds += 1;
    told.deleted += deleted;
  }
  await db.close();
}

/** Stores one of few contents, names it, looks whether it is there as long as the row lives, and drops the row. */
async function write(worker: number): Promise<void> {
  const api = openDatabase(apiUrl, 'finegrain_api', { max: 1 });
  const system = openDatabase(systemUrl, 'finegrain_system', {
    max: 1,
  });
  while (!stopped) {
    const content = `content ${(told.rounds++ * 7 + worker) % 4}`;
    let tries = 0;
    const { digest } = await untilNamed(async () => {
      tries += 1;
      const stored = await artifacts.put([content] as never);
      await api.transaction(project, async (tx) => {
        await holdArtifacts(tx, artifacts, [stored.digest]);
        if (Math.random() < 0.5) await sleep(Math.random() * 4);
        const row = { projectId: project, ...stored, mediaType: 'text/plain' };
        await insertArtifact(tx, row);
      });
      return stored;
    });
    told.named += 1;
    told.again += tries - 1;
    for (let looks = 0; looks < 3; looks += 1) {
      if (!(await artifacts.has(digest))) told.missing.push(content);
      await sleep(1);
    }
    await system.transaction(null, (tx) =>
      tx.query('delete from finegrain.artifacts where project_id = $1 and digest = $2', [project, digest]),
    );
  }
  await api.close();
  await system.close();
}

const tell = (): boolean => process.stdout.write(`${JSON.stringify(told)}\n`);
const telling = setInterval(tell, 100);
if (part === 'collect') await collect();
else await write(Number(project.slice(-1)));
clearInterval(telling);
tell();
