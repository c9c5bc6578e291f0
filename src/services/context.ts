// What every service function receives: who asks, and the parts that the service may use.
import type { Database } from '../db/pool.ts';
import { Problem } from '../errors.ts';
import type { OutgoingClient } from '../outgoing/client.ts';
import type { ScoringEngine } from '../scoring/engine.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import type { Cursors } from './cursors.ts';
import type { SampleModel } from './sample-model.ts';
import type { SecretKeys } from './sealing.ts';

export interface Services {
  db: Database;
  artifacts: ArtifactStore;
  cursors: Cursors;
  scoring: ScoringEngine;
  /** null in an installation without it */
  sample: SampleModel | null;
  /** null: the operator gave no key, and no secret can be stored */
  secretKeys: SecretKeys | null;
  outgoing: OutgoingClient;
}

export const scopes = {
  read: 'Read datasets, pairs, edits, snapshots, models, runs and artifacts; stateless computations',
  'pairs:write': 'Create and change datasets and pairs; create and cancel edit requests',
  'edits:write': 'Submit edits; claim edit tasks and work on them',
  'edits:review': 'Accept, reject and supersede edits',
  'votes:write': 'Vote on pairs',
  'snapshots:write': 'Create snapshots',
  'models:write': 'Upload artifacts; register and delete models, set aliases',
  score: 'Score responses',
  'evaluations:write': 'Create and cancel evaluations',
  'evaluations:judge': 'Judge in evaluations: claim pairs of responses, submit judgements',
  'runs:write': 'Create and steer runs',
  admin: 'Everything in the project, API keys included',
  operator: 'Create and list projects: the bootstrap key only',
} as const;

export type Scope = keyof typeof scopes;

/** What a key stands for. */
export interface Identity {
  projectId: string;
  /** null for the bootstrap key, which is not stored */
  keyId: string | null;
  scopes: readonly string[];
}

/** An authenticated caller, with what the audit log says of the request. */
export interface Caller extends Identity {
  requestId: string;
  address: string;
}

/** `admin` includes every scope but `operator`. @throws Problem missing_scope */
export function requireScope(caller: Identity, scope: Scope): void {
  const held = caller.scopes.includes(scope) || (scope !== 'operator' && caller.scopes.includes('admin'));
  if (!held)
    throw new Problem(
      'missing_scope',
      `This needs the scope "${scope}"; the key has: ${caller.scopes.join(', ') || 'none'}. Ask an admin of the project for a key with it.`,
    );
}
