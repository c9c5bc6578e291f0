// What a request for an `llm` asks for: a chat endpoint, how to call it, and what that may cost. Checked when the request
// is made, so that a mistake is told then and not by a job.
import * as db from '../db/llm-editors.ts';
import type { Transaction } from '../db/pool.ts';
import { selectSealedSecret } from '../db/secrets.ts';
import { Problem, unprocessable } from '../errors.ts';
import { OutgoingError } from '../outgoing/errors.ts';
import { chatUrl } from './chat-endpoint.ts';
import { type Caller, requireScope, type Services } from './context.ts';

/** Kept as they are asked for; the key itself is in the secret only. */
export interface LlmSettings {
  base_url: string;
  model: string;
  secret: string | null;
  temperature: number | null;
  max_tokens: number | null;
  concurrency: number;
  requests_per_minute: number | null;
}

export interface NewLlmEditor extends Partial<LlmSettings> {
  base_url: string;
  model: string;
  price?: db.Price | null;
  limits?: db.Limits | null;
}

export interface LlmEditor extends LlmSettings {
  price: db.Price | null;
  limits: { max_total_tokens: number | null; max_cost: number | null };
}

export interface LlmUsage {
  requests: number;
  retries: number;
  refused: number;
  input_tokens: number;
  output_tokens: number;
  cost: number | null;
}

/** Why the work on a request has stopped, until somebody resumes it. */
export const stopReasons = {
  budget: 'The next call might pass a limit: raise it with `limits` of `/resume`',
  credentials:
    'The secret is missing or cannot be read, or the endpoint does not take it: set it again, then resume',
  endpoint:
    'The endpoint is unusable, or did not serve for half an hour: mend it, then resume, or cancel and ask anew',
} as const;

export type StopReason = keyof typeof stopReasons;

export interface Stopped {
  reason: StopReason;
  detail: string;
  at: string;
}

const defaultConcurrency = 4;

/** A model may be sampled several times; the first sample is called as the model itself. */
export const sampleName = (model: string, sample: number): string =>
  sample === 1 ? model : `${model}#${sample}`;

/** @throws Problem unprocessable; missing_scope, as whoever names an endpoint for a secret could read it there */
export async function createLlmEditor(
  { outgoing, secretKeys }: Services,
  tx: Transaction,
  caller: Caller,
  requestId: string,
  { price = null, limits, ...input }: NewLlmEditor,
): Promise<void> {
  const settings: LlmSettings = {
    base_url: input.base_url,
    model: input.model,
    secret: input.secret ?? null,
    temperature: input.temperature ?? null,
    max_tokens: input.max_tokens ?? null,
    concurrency: input.concurrency ?? defaultConcurrency,
    requests_per_minute: input.requests_per_minute ?? null,
  };
  try {
    outgoing.check(chatUrl(settings.base_url));
  } catch (error) {
    if (!(error instanceof OutgoingError)) throw error;
    throw unprocessable('/llm/base_url', `cannot be used. ${error.message}`);
  }
  if (settings.secret !== null) {
    requireScope(caller, 'admin');
    if (secretKeys === null)
      throw unprocessable(
        '/llm/secret',
        'cannot be read: the operator of this service has set no FINEGRAIN_SECRET_KEY.',
      );
    if (!(await selectSealedSecret(tx, caller.projectId, settings.secret)))
      throw unprocessable(
        '/llm/secret',
        `names no secret of this project: PUT /v1/secrets/${settings.secret} sets it.`,
      );
  }
  checkLimits(limits ?? {}, price !== null, '/llm/limits');
  await db.insertLlmEditor(tx, {
    projectId: caller.projectId,
    requestId,
    settings,
    price,
    limits: limits ?? {},
  });
}

function checkLimits(limits: db.Limits, hasPrice: boolean, pointer: string): void {
  if (typeof limits.max_cost === 'number' && !hasPrice)
    throw unprocessable(
      `${pointer}/max_cost`,
      'needs /llm/price: without it the service cannot know what a call costs.',
    );
}

/** @throws Problem conflict, unprocessable, missing_scope */
export async function resumeLlmEditor(
  tx: Transaction,
  caller: Caller,
  requestId: string,
  limits: db.Limits | null,
): Promise<void> {
  const row = await db.selectLlmEditor(tx, requestId);
  if (!row) throw new Problem('conflict', 'Only the work of an `llm` is stopped and resumed.');
  if (limits !== null) {
    if ((row.settings as LlmSettings).secret !== null) requireScope(caller, 'admin');
    checkLimits(limits, row.input_price !== null, '/limits');
  }
  await db.resumeLlmEditor(tx, requestId, limits);
}

/** As outsiders see it; nulls for a request that is for others. */
export function renderLlmEditor(row: db.LlmEditorRow | undefined): {
  llm: LlmEditor | null;
  usage: LlmUsage | null;
  stopped: Stopped | null;
} {
  if (!row) return { llm: null, usage: null, stopped: null };
  const { input_price, output_price, input_tokens, output_tokens } = row;
  const price =
    input_price === null || output_price === null
      ? null
      : { input_per_million: input_price, output_per_million: output_price };
  return {
    llm: {
      ...(row.settings as LlmSettings),
      price,
      limits: { max_total_tokens: row.max_total_tokens, max_cost: row.max_cost },
    },
    usage: {
      requests: row.requests,
      retries: row.retries,
      refused: row.refused,
      input_tokens,
      output_tokens,
      cost:
        price && (input_tokens * price.input_per_million + output_tokens * price.output_per_million) / 1e6,
    },
    stopped: row.stopped as Stopped | null,
  };
}
