// NDJSON rows that a caller uploaded: demonstrations, prompts, and responses to be judged, checked row by row. The API looks at the
// first ones when a run is created, the runner at all of them.
import { type Static, type TSchema, Type } from 'typebox';
import { Compile, type Validator } from 'typebox/compile';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import { readNdjson } from './ndjson.ts';
import { Message } from './pair-rows.ts';
import { splits } from './snapshot-content.ts';

const Prompt = Type.Union([Type.String({ minLength: 1 }), Type.Array(Message, { minItems: 1 })]);
const RowId = Type.Optional(Type.Union([Type.String(), Type.Integer()]));

// further columns are left alone
const demonstration = Compile(
  Type.Object({
    id: RowId,
    prompt: Prompt,
    response: Type.String(),
    split: Type.Optional(Type.Enum([...splits])),
  }),
);
const prompt = Compile(Type.Object({ id: RowId, prompt: Prompt }));
const response = Compile(Type.Object({ id: RowId, prompt: Type.Optional(Prompt), response: Type.String() }));

/** A row that cannot be read; the message names the line and the field. */
export class BadRow extends Error {}

export const demonstrationRows = (artifacts: ArtifactStore, digest: string) =>
  rows(artifacts, digest, demonstration);
export const promptRows = (artifacts: ArtifactStore, digest: string) => rows(artifacts, digest, prompt);
export const responseRows = (artifacts: ArtifactStore, digest: string) => rows(artifacts, digest, response);

/** `id` is the line's number where the row has none. @throws BadRow */
async function* rows<Schema extends TSchema>(
  artifacts: ArtifactStore,
  digest: string,
  format: Validator<Record<string, never>, Schema>,
): AsyncGenerator<Static<Schema> & { id: string }> {
  let empty = true;
  for await (const line of readNdjson(artifacts.read(digest), Number.POSITIVE_INFINITY)) {
    if ('error' in line) throw new BadRow(`line ${line.line}${line.error.pointer} ${line.error.detail}`);
    const row = line.value;
    if (!format.Check(row)) {
      const [wrong] = format.Errors(row);
      throw new BadRow(`line ${line.line}: ${wrong!.instancePath || 'the row'} ${wrong!.message}`);
    }
    empty = false;
    yield { ...(row as object), id: String((row as { id?: unknown }).id ?? line.line) } as Static<Schema> & {
      id: string;
    };
  }
  if (empty) throw new BadRow('there are no rows');
}
