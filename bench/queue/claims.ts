// What a claim costs behind many queued runs: those that it could take, and those that it must pass over.
import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { openDatabase } from '../../src/db/pool.ts';
import { claimRun, finishRun, registerRunner } from '../../src/db/run-execution.ts';
import { quantile } from '../../test/soak/trend.ts';
import type { Installation } from '../../test/support/installation.ts';

const project = '00000000-0000-7000-8000-000000000000';
const depths = [0, 100, 1000, 10_000];
const claimsEach = 100;
const flatWithin = 2;

/** What the queued runs have in the columns that decide; one more, the youngest, fits in any case. */
const queues: [string, string][] = [
  ['of its class', "'cpu', '{}', 0"],
  ['of another class', "'cuda', '{}', 0"],
  ['with labels that it lacks', "'cpu', '{h100}', 0"],
  ['with a hundred sets of labels that it lacks', "'cpu', array['h100', 'rack-' || n % 100], 0"],
  ['that wait for others', "'cpu', '{}', 1"],
];

export async function measureClaims({ postgres, directUrl }: Installation): Promise<string> {
  const superuser = new pg.Client({ connectionString: postgres.superuserUrl });
  await superuser.connect();
  const database = openDatabase(directUrl('finegrain_runner'), 'finegrain_runner', { max: 1 });
  const runner = {
    id: randomUUID(),
    name: 'bench',
    hardware: ['cpu'],
    labels: ['a'],
    devices: [],
    version: '0',
    leaseSeconds: 60,
    pollSeconds: 10,
  };
  await database.transaction(null, (tx) => registerRunner(tx, runner));
  const queue = (columns: string, count: number) =>
    superuser.query(
      `insert into finegrain.runs (project_id, id, kind, spec, inputs, max_attempts, hardware, labels, waits_for)
       select $1, gen_random_uuid(), 'sft', '{}', '{}', 3, ${columns} from generate_series(1, $2::int) n`,
      [project, count],
    );
  const empty = () =>
    superuser.query(
      'truncate finegrain.runs, finegrain.run_attempts, finegrain.run_events, finegrain.run_checkpoints, finegrain.run_dependencies cascade',
    );
  const given = {
    outcome: 'interrupted' as const,
    result: null,
    failure: null,
    runArtifacts: [],
    newArtifacts: [],
    model: null,
    alias: null,
    events: [],
  };
  const medianMs = async (): Promise<number> => {
    const times: number[] = [];
    for (let claim = 0; claim < claimsEach; claim++) {
      const begun = performance.now();
      const held = await database.transaction(null, (tx) => claimRun(tx, runner.id));
      times.push(performance.now() - begun);
      if (!held) throw new Error('A run that fits was not taken.');
      await database.transaction(null, (tx) => finishRun(tx, held, given));
    }
    return quantile(times, 0.5);
  };

  const rows: string[] = [];
  let worst = 0;
  for (const [what, columns] of queues) {
    const medians: number[] = [];
    for (const depth of depths) {
      await empty();
      await queue(columns, depth);
      await superuser.query(
        `insert into finegrain.runs (project_id, id, kind, spec, inputs, max_attempts, hardware, labels)
         values ($1, 'ffffffff-ffff-7fff-bfff-ffffffffffff', 'sft', '{}', '{}', 3, 'cpu', '{}')`,
        [project],
      );
      await superuser.query('vacuum analyze finegrain.runs');
      medians.push(await medianMs());
    }
    const ratio = medians.at(-1)! / medians[0]!;
    worst = Math.max(worst, ratio);
    rows.push(
      `| ${what} | ${medians.map((ms) => `${ms.toFixed(1)} ms`).join(' | ')} | ${ratio.toFixed(1)} |`,
    );
  }
  await empty();
  await database.close();
  await superuser.end();
  return [
    '## Claims behind a long queue',
    `Medians of ${claimsEach} claims of one runner over its own connection; in each queue the youngest run fits in any case.`,
    `| queued runs | ${depths.map((depth) => depth.toLocaleString('en')).join(' | ')} | 10,000 : 0 |
| --- | ${depths.map(() => '--- | ').join('')}--- |
${rows.join('\n')}`,
    `- **${worst <= flatWithin ? 'reached' : 'missed'}**: flat, that is within a factor of ${flatWithin}: ${worst.toFixed(1)} at worst`,
  ].join('\n\n');
}
