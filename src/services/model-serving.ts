// Which models are in memory: of the process that answers, as each has scorers of its own. Asked and changed by
// POST /v1/models/{id}/warm; a model that is not warmed loads when it is first scored with.
import { formatId } from '../domain/ids.ts';
import { Problem } from '../errors.ts';
import type { ServedModel } from '../scoring/engine.ts';
import type { Caller, Services } from './context.ts';
import { resolveModel } from './models.ts';

/** What moves a model from one to the next. */
export const servingStates = {
  not_loaded:
    'no scorer has it: it was not used yet, nothing came for ten minutes, others needed its place, or its server does not serve; a score or a warm-up loads it',
  loading: 'a scorer starts: files, graph, and the comparison with golden.json; becomes loaded or refused',
  loaded: 'the next score does not wait for it',
  refused:
    'it cannot be served, `reason` says why; tried again a minute after the last attempt. Its files never change: register a mended model',
} as const;

export type ServingState = keyof typeof servingStates;

export interface Serving {
  model_id: string;
  digest: string;
  state: ServingState;
  /** of a refusal, or of an attempt to load that just failed */
  reason: string | null;
}

/** @throws Problem not_found */
export async function getServing(services: Services, caller: Caller, idOrAlias: string): Promise<Serving> {
  const model = await services.db.transaction(caller.projectId, (tx) =>
    resolveModel(services, tx, idOrAlias),
  );
  return servingOf(services, model, null);
}

/**
 * Loads a model and waits for it, for so long; what still loads then goes on loading.
 * @param gone aborts when nobody waits any more
 * @throws Problem not_found; unprocessable for a model that is none of token rewards; overloaded
 */
export async function warmModel(
  services: Services,
  caller: Caller,
  idOrAlias: string,
  { waitSeconds, gone }: { waitSeconds: number; gone: AbortSignal },
): Promise<Serving> {
  const model = await services.db.transaction(caller.projectId, (tx) =>
    resolveModel(services, tx, idOrAlias),
  );
  if (model.role !== 'token_reward')
    throw new Problem(
      'unprocessable',
      `The model has the role ${model.role}; only a token_reward model is loaded here, to score.`,
    );
  const timeout = AbortSignal.timeout(waitSeconds * 1000);
  try {
    await services.scoring.warm(model, AbortSignal.any([timeout, gone]));
    return servingOf(services, model, null);
  } catch (error) {
    if (error === timeout.reason) return servingOf(services, model, null);
    // a scorer that dies while it loads may die of the model: that is no failure of the service
    if (error instanceof Problem && ['unprocessable', 'unavailable'].includes(error.code))
      return servingOf(services, model, error.message);
    throw error;
  }
}

function servingOf(
  { scoring }: Services,
  model: ServedModel & { id: string },
  failure: string | null,
): Serving {
  const state = scoring.stateOf(model);
  const refused = state instanceof Problem;
  return {
    model_id: formatId('model', model.id),
    digest: model.digest,
    state: refused ? 'refused' : state,
    reason: refused ? state.message : state === 'not_loaded' ? failure : null,
  };
}
