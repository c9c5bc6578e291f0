// `npm run bench:claims`: what a claim and its submission cost as tables grow. The same work on a small and on a large
// database of one Postgres, in turn. Writes its part of bench/RESULTS.md.
import { parseArgs } from 'node:util';
import pg from 'pg';
import { openDatabase, type PooledDatabase } from '../../src/db/pool.ts';
import { claimTasks, submitTask } from '../../src/services/edit-tasks.ts';
import { quantile } from '../../test/soak/trend.ts';
import type { Installation } from '../../test/support/installation.ts';
import { onInstallation } from '../installation.ts';
import { describeMachine, writePart } from '../report.ts';
import { fill, project, type Scale, scenarios } from './tables.ts';

const flatWithin = 2;
const caller = { projectId: project };
const editor = { kind: 'program', name: 'bench' } as const;
const scales: Scale[] = ['small', 'large'];

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '200' } } });
const rounds = Number(values.rounds);
if (!(rounds >= 10)) {
  console.log('Usage: npm run bench:claims [-- --rounds N], N at least 10');
  process.exit(2);
}

await onInstallation(async (installation) => {
  const where = describeMachine();
  const rows: string[] = [];
  let worst = 0;
  for (const { name, expected, ...scenario } of scenarios) {
    const databases = await Promise.all(scales.map((scale) => prepare(installation, scale, scenario)));
    const times = { claim: scales.map((): number[] => []), submit: scales.map((): number[] => []) };
    for (let round = -10; round < rounds; round++) {
      for (const [index, database] of databases.entries()) {
        const { claim, submit } = await work(database);
        if (round < 0) continue;
        times.claim[index]!.push(claim);
        times.submit[index]!.push(submit);
      }
    }
    await Promise.all(databases.map((database) => database.close()));
    const cells = Object.values(times).flatMap(([small, large]) => {
      const [one, other] = [quantile(small!, 0.5), quantile(large!, 0.5)];
      if (expected === 'flat') worst = Math.max(worst, other / one);
      return [`${one.toFixed(1)} ms`, `${other.toFixed(1)} ms`, (other / one).toFixed(1)];
    });
    rows.push(`| ${name} | ${cells.join(' | ')} |`);
    console.log(rows.at(-1));
  }
  const part = [
    '# Editing work',
    `Made by \`npm run bench:claims\`; ${where}.`,
    `Medians of ${rounds} claims of one task, and of their submissions, over one connection; 1,000 tasks against 200,000, one Postgres with fsync,
in turn.`,
    `| | claim, 1,000 | 200,000 | ratio | submit, 1,000 | 200,000 | ratio |
| --- | --- | --- | --- | --- | --- | --- |
${rows.join('\n')}`,
    `- **${worst <= flatWithin ? 'reached' : 'missed'}**: flat, that is within a factor of ${flatWithin}, in the rows without a star: ${worst.toFixed(1)} at worst`,
  ].join('\n\n');
  await writePart('edit work', part);
});

/** A database of its own, made anew from the migrated one. */
async function prepare(
  { postgres, directUrl }: Installation,
  scale: Scale,
  scenario: Parameters<typeof fill>[2],
): Promise<PooledDatabase> {
  const admin = new pg.Client({
    connectionString: Object.assign(new URL(postgres.superuserUrl), { pathname: '/template1' }).href,
  });
  const template = new URL(postgres.superuserUrl).pathname.slice(1);
  await admin.connect();
  await admin.query(`drop database if exists ${scale}`);
  await admin.query(`create database ${scale} template ${template}`);
  await admin.end();
  const named = (url: string): string => Object.assign(new URL(url), { pathname: `/${scale}` }).href;
  const client = new pg.Client({ connectionString: named(postgres.superuserUrl) });
  await client.connect();
  await fill(client, scale, scenario);
  await client.end();
  return openDatabase(named(directUrl('finegrain_api')), 'finegrain_api', { max: 1 });
}

async function work(db: PooledDatabase): Promise<{ claim: number; submit: number }> {
  const begun = performance.now();
  const { items } = await claimTasks({ db }, caller, { editor });
  const claimed = performance.now();
  const [task] = items;
  if (!task) throw new Error('There was no task to claim.');
  const edit = { lease_token: task.lease_token, edited_response: 'Dear Anna, the harbor is open.' };
  await submitTask({ db }, caller, task.id, edit);
  return { claim: claimed - begun, submit: performance.now() - claimed };
}
