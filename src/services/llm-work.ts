// What is asked for when a language model is to work, for an edit request or an evaluation: a chat endpoint, how to call it, and
// what that may cost. Checked when it is asked for, so that a mistake is told then and not by a job.
import * as db from '../db/llm-work.ts';
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

export interface NewLlm extends Partial<LlmSettings> {
  base_url: string;
  model: string;
  price?: db.Price | null;
  limits?: db.Limits | null;
}

export type Llm<Settings extends LlmSettings = LlmSettings> = Settings & {
  price: db.Price | null;
  limits: { max_total_tokens: number | null; max_cost: number | null };
};

export interface LlmUsage {
  requests: number;
  retries: number;
  refused: number;
  input_tokens: number;
  output_tokens: number;
  cost: number | null;
}

/** Why the work has stopped, until somebody resumes it. */
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

/** @returns them with defaults */
export const completeSettings = (input: NewLlm): LlmSettings => ({
  base_url: input.base_url,
  model: input.model,
  secret: input.secret ?? null,
  temperature: input.temperature ?? null,
  max_tokens: input.max_tokens ?? null,
  concurrency: input.concurrency ?? defaultConcurrency,
  requests_per_minute: input.requests_per_minute ?? null,
});

export interface NewLlmWork {
  for: { editRequestId: string } | { evaluationId: string };
  settings: LlmSettings;
  price: db.Price | null | undefined;
  limits: db.Limits | null | undefined;
  /** begins when it is told to, not now */
  waits: boolean;
}

/**
 * @param pointer to the settings in the body
 * @throws Problem unprocessable; missing_scope, as whoever names an endpoint for a secret could read it there
 */
export async function addLlmWork(
  { outgoing, secretKeys }: Pick<Services, 'outgoing' | 'secretKeys'>,
  tx: Transaction,
  caller: Caller,
  { settings, price = null, limits, ...work }: NewLlmWork,
  pointer: string,
): Promise<void> {
  try {
    outgoing.check(chatUrl(settings.base_url));
  } catch (error) {
    if (!(error instanceof OutgoingError)) throw error;
    throw unprocessable(`${pointer}/base_url`, `cannot be used. ${error.message}`);
  }
  if (settings.secret !== null) {
    requireScope(caller, 'admin');
    if (secretKeys === null)
      throw unprocessable(
        `${pointer}/secret`,
        'cannot be read: the operator of this service has set no FINEGRAIN_SECRET_KEY.',
      );
    if (!(await selectSealedSecret(tx, caller.projectId, settings.secret)))
      throw unprocessable(
        `${pointer}/secret`,
        `names no secret of this project: PUT /v1/secrets/${settings.secret} sets it.`,
      );
  }
  checkLimits(limits ?? {}, price !== null, { limits: `${pointer}/limits`, price: `${pointer}/price` });
  const { projectId } = caller;
  await db.insertLlmWork(tx, { ...work, projectId, settings, price, limits: limits ?? {} });
}

function checkLimits(
  limits: db.Limits,
  hasPrice: boolean,
  pointers: { limits: string; price: string },
): void {
  if (typeof limits.max_cost === 'number' && !hasPrice)
    throw unprocessable(
      `${pointers.limits}/max_cost`,
      `needs ${pointers.price}: without it the service cannot know what a call costs.`,
    );
}

/**
 * @param pointer to the settings in the body that asked for the work
 * @throws Problem conflict, unprocessable, missing_scope
 */
export async function resumeLlmWork(
  tx: Transaction,
  caller: Caller,
  id: string,
  limits: db.Limits | null,
  pointer: string,
): Promise<void> {
  const [row] = await db.selectLlmWork(tx, [id]);
  if (!row) throw new Problem('conflict', 'Only the work of an `llm` is stopped and resumed.');
  if (limits !== null) {
    if ((row.settings as LlmSettings).secret !== null) requireScope(caller, 'admin');
    checkLimits(limits, row.input_price !== null, { limits: '/limits', price: `${pointer}/price` });
  }
  await db.resumeLlmWork(tx, id, limits);
}

export interface RenderedLlmWork<Settings extends LlmSettings = LlmSettings> {
  llm: Llm<Settings> | null;
  usage: LlmUsage | null;
  stopped: Stopped | null;
}

/** As outsiders see it; nulls where no language model works. */
export function renderLlmWork<Settings extends LlmSettings = LlmSettings>(
  row: db.LlmWorkRow | undefined,
): RenderedLlmWork<Settings> {
  if (!row) return { llm: null, usage: null, stopped: null };
  const { input_price, output_price, input_tokens, output_tokens } = row;
  const price =
    input_price === null || output_price === null
      ? null
      : { input_per_million: input_price, output_per_million: output_price };
  return {
    llm: {
      ...(row.settings as Settings),
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
