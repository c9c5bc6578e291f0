// Whether the key that encrypts secrets is here: a lost one leaves webhooks and secrets unreadable.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type pg from 'pg';
import type { Config } from '../config.ts';
import { findSecretKey } from '../secret-key.ts';
import { secretKeys } from '../services/sealing.ts';
import { type Finding, failed, ok, warning } from './check.ts';
import { mayActAs, row } from './connection.ts';

export async function checkSecretKey(client: pg.Client, config: Config): Promise<Finding> {
  const current = await givenKey(config);
  const keys = current && secretKeys(current, config.previousSecretKeys);
  const known = keys === null ? [] : [keys.current, ...keys.previous].map(({ id }) => id);
  const missing = (await usedKeys(client)).filter((id) => !known.includes(id));
  if (missing.length > 0)
    return failed(
      `secrets or webhooks are encrypted with ${missing.length} key(s) that are not here: ${missing.join(', ')}`,
      'Give API and worker the key in FINEGRAIN_SECRET_KEY, or in FINEGRAIN_SECRET_KEY_PREVIOUS if there is a newer one.',
    );
  if (current === null)
    return warning(
      'there is no FINEGRAIN_SECRET_KEY: webhooks and secrets cannot be stored',
      'Set it for API and worker: openssl rand -base64 32. Without webhooks and secrets ignore it.',
    );
  return ok('there is a key for what must be encrypted');
}

/** With the embedded database the service makes one at its start; the doctor makes none. */
async function givenKey(config: Config): Promise<Buffer | null> {
  const kept = existsSync(join(config.dataDir, 'secret-key'));
  return config.databaseUrl === null && !kept ? config.secretKey : findSecretKey(config);
}

/** The ids of the keys that something is encrypted with, as far as this login may see every project. */
async function usedKeys(client: pg.Client): Promise<string[]> {
  const { system } = await row(client, `select ${mayActAs('finegrain_system')} as system`);
  if (!system) return [];
  await client.query('begin');
  await client.query('set local role finegrain_system');
  const { migrated } = await row(client, "select to_regclass('finegrain.webhooks') is not null as migrated");
  const used = migrated
    ? await client.query('select key_id from finegrain.secrets union select key_id from finegrain.webhooks')
    : { rows: [] };
  await client.query('rollback');
  return used.rows.map(({ key_id }) => key_id);
}
