// Names for what routes declare in place: client generators make a type of every component, and an anonymous one of the
// rest. The name follows from the operation, or from the item of a page.
import type { JsonSchema } from './examples.ts';

export interface Operation {
  operationId: string;
  parameters?: Parameter[];
  requestBody?: { content: Record<string, MediaType> };
  responses: Record<string, Response>;
}

export interface Parameter {
  required?: boolean;
  schema: JsonSchema;
  example?: unknown;
}

export interface Response {
  $ref?: string;
  description?: string;
  content?: Record<string, MediaType>;
}

export interface MediaType {
  schema: JsonSchema;
  example?: unknown;
  examples?: Record<string, object>;
}

const capitalised = (name: string): string => name[0]!.toUpperCase() + name.slice(1);
const reference = (name: string): JsonSchema => ({ $ref: `#/components/schemas/${name}` });

/** Moves the inline objects of an operation's JSON bodies into `schemas`. */
export function nameInlineObjects(operation: Operation, schemas: Record<string, JsonSchema>): void {
  const name = (media: MediaType | undefined, otherwise: string): void => {
    if (media?.schema.properties === undefined) return;
    const named = pageName(media.schema) ?? otherwise;
    schemas[named] ??= media.schema;
    media.schema = reference(named);
  };
  const stem = capitalised(operation.operationId);
  name(operation.requestBody?.content['application/json'], `${stem}Request`);
  for (const response of Object.values(operation.responses))
    name(response.content?.['application/json'], `${stem}Answer`);
}

/** `DatasetPage` for a page of `Dataset`s. */
function pageName({ properties }: JsonSchema): string | null {
  const item = properties?.next_cursor && properties.items?.items?.$ref;
  return item ? `${item.split('/').at(-1)}Page` : null;
}
