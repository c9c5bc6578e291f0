// The three row formats of an import, parsed into one: our own, TRL's {prompt, chosen, rejected} and AlpacaFarm's
// {instruction, input, output_1, output_2, preference}. Columns that are not ours are kept under `metadata`.
import { type Static, type TSchema, Type } from 'typebox';
import { Compile } from 'typebox/compile';
import { noVotes, preferenceByVotes, type Votes } from '../domain/votes.ts';

export const maxTextLength = 1_000_000;
const Text = Type.String({ maxLength: maxTextLength });

export const Message = Type.Object(
  {
    role: Type.Enum(['system', 'user', 'assistant']),
    content: Type.String({ minLength: 1, maxLength: maxTextLength }),
  },
  { additionalProperties: false, $id: 'Message' },
);

const PromptText = Type.String({ minLength: 1, maxLength: maxTextLength });
const Messages = <T extends TSchema>(message: T) => Type.Array(message, { minItems: 1, maxItems: 1000 });

export type Prompt = string | Static<typeof Message>[];

export const preferences = ['a', 'b'] as const;

const ExternalId = Type.String({ minLength: 1, maxLength: 500 });
const Count = Type.Optional(Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 }));
const VoteCounts = Type.Object({ a: Count, b: Count, tie: Count }, { additionalProperties: false });
const Metadata = Type.Record(Type.String(), Type.Unknown());

/** A pair as clients submit it, after parsing. */
export interface PairInput {
  external_id: string | null;
  prompt: Prompt;
  response_a: string;
  response_b: string;
  preference: 'a' | 'b' | null;
  metadata: Record<string, unknown>;
  votes: Votes;
}

const Conversation = Messages(Message);
export const promptSchema = Type.Union([PromptText, Conversation]);

const rowFormats = {
  pair: Compile(
    Type.Object({
      external_id: Type.Optional(Type.Union([ExternalId, Type.Null()])),
      id: Type.Optional(Type.Union([ExternalId, Type.Integer()])),
      prompt: promptSchema,
      response_a: Text,
      response_b: Text,
      preference: Type.Optional(Type.Union([Type.Enum(preferences), Type.Null()])),
      votes: Type.Optional(VoteCounts),
      metadata: Type.Optional(Metadata),
    }),
  ),
  trl: Compile(
    Type.Object({
      external_id: Type.Optional(Type.Union([ExternalId, Type.Null()])),
      id: Type.Optional(Type.Union([ExternalId, Type.Integer()])),
      prompt: promptSchema,
      chosen: Type.Union([Text, Type.Tuple([Message])]),
      rejected: Type.Union([Text, Type.Tuple([Message])]),
      metadata: Type.Optional(Metadata),
    }),
  ),
  alpaca: Compile(
    Type.Object({
      external_id: Type.Optional(Type.Union([ExternalId, Type.Null()])),
      id: Type.Optional(Type.Union([ExternalId, Type.Integer()])),
      instruction: PromptText,
      input: Type.Optional(Type.Union([Text, Type.Null()])),
      output_1: Text,
      output_2: Text,
      preference: Type.Optional(Type.Union([Type.Number({ minimum: 1, maximum: 2 }), Type.Null()])),
      metadata: Type.Optional(Metadata),
    }),
  ),
};

/** Why a row of an import cannot be taken. */
export interface RowError {
  code: 'invalid_row' | 'conflict' | 'not_found' | 'edit_refused';
  pointer: string;
  detail: string;
}

/** What a batch item may leave out. */
export type NewPair = Pick<PairInput, 'prompt' | 'response_a' | 'response_b'> &
  Partial<Omit<PairInput, 'votes'>> & { votes?: Partial<Votes> };

export function completePair(pair: NewPair): PairInput {
  const votes = { ...noVotes, ...pair.votes };
  return { external_id: null, preference: preferenceByVotes(votes), metadata: {}, ...pair, votes };
}

/** @returns the pair, or the first thing that is wrong with the row */
export function parsePairRow(row: unknown): PairInput | RowError {
  if (typeof row !== 'object' || row === null || Array.isArray(row))
    return invalid('', 'is not a JSON object');
  if ('chosen' in row || 'rejected' in row) return parseTrl(row);
  if ('instruction' in row) return parseAlpaca(row);
  return parseOwn(row);
}

const invalid = (pointer: string, detail: string): RowError => ({ code: 'invalid_row', pointer, detail });

function parseOwn(row: object): PairInput | RowError {
  const { pair } = rowFormats;
  if (!pair.Check(row)) return firstError(pair.Errors(row));
  const { prompt, response_a, response_b } = row;
  const votes = row.votes === undefined ? noVotes : { ...noVotes, ...row.votes };
  const { preference = preferenceByVotes(votes) } = row;
  return withMetadata(row, ownColumns.pair, { prompt, response_a, response_b, preference, votes });
}

function parseTrl(row: object): PairInput | RowError {
  const { trl } = rowFormats;
  if (!trl.Check(row)) return firstError(trl.Errors(row));
  const { prompt, chosen, rejected } = row;
  for (const [name, response] of Object.entries({ chosen, rejected })) {
    if (typeof response !== 'string' && response[0].role !== 'assistant')
      return invalid(`/${name}/0/role`, 'must be "assistant"');
  }
  const text = (response: typeof chosen) => (typeof response === 'string' ? response : response[0].content);
  return withMetadata(row, ownColumns.trl, {
    prompt,
    response_a: text(chosen),
    response_b: text(rejected),
    preference: 'a',
    votes: noVotes,
  });
}

function parseAlpaca(row: object): PairInput | RowError {
  const { alpaca } = rowFormats;
  if (!alpaca.Check(row)) return firstError(alpaca.Errors(row));
  const { instruction, input, output_1, output_2, preference } = row;
  return withMetadata(row, ownColumns.alpaca, {
    prompt: input ? `${instruction}\n\n${input}` : instruction,
    response_a: output_1,
    response_b: output_2,
    // AlpacaFarm writes 1 or 2; AlpacaEval 2 a weight in between, of which 1.5 is a draw
    preference: preference == null || preference === 1.5 ? null : preference < 1.5 ? 'a' : 'b',
    votes: noVotes,
  });
}

const ownColumns = {
  pair: new Set(['external_id', 'metadata', 'prompt', 'response_a', 'response_b', 'preference', 'votes']),
  trl: new Set(['external_id', 'metadata', 'prompt', 'chosen', 'rejected']),
  alpaca: new Set(['external_id', 'metadata', 'instruction', 'input', 'output_1', 'output_2', 'preference']),
};

// our own exports carry these beside external_id; they belong to the pair that was exported
const exportedColumns = new Set(['id', 'dataset_id', 'created_at']);

function withMetadata(
  row: { external_id?: string | null; id?: string | number; metadata?: Record<string, unknown> },
  own: ReadonlySet<string>,
  pair: Omit<PairInput, 'external_id' | 'metadata'>,
): PairInput | RowError {
  const { external_id, id, metadata = {} } = row;
  const externalId = external_id !== undefined ? external_id : id === undefined ? null : String(id);
  let extra: Record<string, unknown> | null = null;
  for (const name of Object.keys(row)) {
    if (own.has(name)) continue;
    if (name === 'id' && external_id === undefined) continue;
    if (exportedColumns.has(name) && external_id !== undefined) continue;
    if (Object.hasOwn(metadata, name)) return invalid(`/${name}`, 'stands both beside and inside metadata');
    extra ??= {};
    const value = (row as Record<string, unknown>)[name];
    Object.defineProperty(extra, name, { value, enumerable: true, configurable: true, writable: true }); // also "__proto__"
  }
  return {
    ...pair,
    external_id: externalId,
    metadata: extra === null ? metadata : { ...metadata, ...extra },
  };
}

export function firstError(
  errors: { instancePath: string; keyword: string; message: string; params: object }[],
): RowError {
  // of the branches of a union, the one that got furthest says it best
  const error = errors.reduce((deepest, other) =>
    other.instancePath.length > deepest.instancePath.length ? other : deepest,
  );
  const missing =
    'requiredProperties' in error.params ? (error.params.requiredProperties as string[])[0] : undefined;
  return missing === undefined
    ? invalid(error.instancePath, error.message)
    : invalid(`${error.instancePath}/${missing}`, 'is missing');
}
