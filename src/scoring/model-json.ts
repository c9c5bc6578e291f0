// JSON files of a model folder, checked where they are read. A model that cannot be served is refused with a reason
// that its owner can act on.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Static, TSchema } from 'typebox';
import { Value } from 'typebox/value';

/** The model itself is at fault: trying again gives the same. */
export class ModelRefused extends Error {
  constructor(reason: string) {
    super(reason);
    this.name = 'ModelRefused';
  }
}

/** @throws ModelRefused when the file is missing, is no JSON or does not fit the schema */
export async function readModelJson<Schema extends TSchema>(
  folder: string,
  name: string,
  schema: Schema,
): Promise<Static<Schema>> {
  const text = await readFile(join(folder, name), 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw error.code === 'ENOENT' ? new ModelRefused(`${name} is missing`) : error;
  });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ModelRefused(`${name} is not JSON: ${(error as SyntaxError).message}`);
  }
  if (!Value.Check(schema, value)) {
    const [first] = Value.Errors(schema, value);
    throw new ModelRefused(
      `${name}${first?.instancePath ? ` at ${first.instancePath}` : ''}: ${first?.message ?? 'does not fit'}`,
    );
  }
  return value as Static<Schema>;
}
