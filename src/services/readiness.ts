// Whether the service can do its work: the database answers, its schema is this version's, artifacts can be stored, the
// model that scores by default can be served. Each check has a bounded time.
import { migrationDrift } from '../db/migrate.ts';
import { Problem } from '../errors.ts';
import type { Services } from './context.ts';

interface Check {
  ok: boolean;
  detail?: string;
}

export interface Readiness {
  ready: boolean;
  checks: { database: Check; migrations: Check; artifacts: Check; model: Check };
}

const limitMs = 3_000;

/** A check that fails, or does not end in time, says so. */
async function bounded(check: Promise<Check>): Promise<Check> {
  let overdue: NodeJS.Timeout | undefined;
  const limit = new Promise<Check>((resolve) => {
    const detail = `did not answer within ${limitMs / 1000} s`;
    overdue = setTimeout(resolve, limitMs, { ok: false, detail });
  });
  try {
    return await Promise.race([check, limit]);
  } catch (error) {
    return { ok: false, detail: error instanceof Error ? error.message : String(error) };
  } finally {
    clearTimeout(overdue);
  }
}

/** What the database lacks is only known while it answers: that is `database`, and the drift is `migrations`. */
async function checkDatabase({
  db,
}: Services): Promise<Pick<Readiness['checks'], 'database' | 'migrations'>> {
  let drift: string | null = null;
  const database = await bounded(
    db.transaction(null, async (tx) => {
      drift = await migrationDrift((text) => tx.query(text));
      return { ok: true };
    }),
  );
  if (!database.ok)
    return { database, migrations: { ok: false, detail: 'not known while the database does not answer' } };
  return { database, migrations: drift === null ? { ok: true } : { ok: false, detail: drift } };
}

/** The shipped sample: projects with a model of their own do without it, and so may an installation. */
async function checkModel({ sample, scoring }: Services): Promise<Check> {
  if (!sample) {
    return {
      ok: true,
      detail: 'there is no sample model in this installation: scoring needs a model of the project',
    };
  }
  await sample.store();
  const state = scoring.stateOf(sample.row);
  if (state instanceof Problem) return { ok: false, detail: state.message };
  return { ok: true, detail: state === 'loaded' ? 'loaded' : 'loads when it is first needed' };
}

export async function checkReadiness(services: Services): Promise<Readiness> {
  const [databases, artifacts, model] = await Promise.all([
    checkDatabase(services),
    bounded(services.artifacts.checkWritable().then(() => ({ ok: true }))),
    bounded(checkModel(services)),
  ]);
  const checks = { ...databases, artifacts, model };
  return { ready: Object.values(checks).every(({ ok }) => ok), checks };
}
