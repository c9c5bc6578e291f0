// Whether the service can do its work: the database answers, its schema is this version's, artifacts can be stored.
import { migrationDrift } from '../db/migrate.ts';
import type { Services } from './context.ts';

interface Check {
  ok: boolean;
  detail?: string;
}

export interface Readiness {
  ready: boolean;
  checks: { database: Check; migrations: Check; artifacts: Check };
}

const failed = (error: unknown): Check => ({
  ok: false,
  detail: error instanceof Error ? error.message : String(error),
});

export async function checkReadiness({ db, artifacts }: Services): Promise<Readiness> {
  let database: Check = { ok: true };
  let migrations: Check = { ok: true };
  try {
    const drift = await db.transaction(null, (tx) => migrationDrift((text) => tx.query(text)));
    if (drift !== null) migrations = { ok: false, detail: drift };
  } catch (error) {
    database = failed(error);
    migrations = { ok: false, detail: 'not known while the database cannot be reached' };
  }
  const store = await artifacts.checkWritable().then((): Check => ({ ok: true }), failed);
  const checks = { database, migrations, artifacts: store };
  return { ready: Object.values(checks).every(({ ok }) => ok), checks };
}
