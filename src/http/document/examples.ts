// An example for every request and answer of the OpenAPI document, composed of the examples that schemas carry: those of
// the whole where its parts hang together, else those of its fields. So an example is written once, beside its field.

export interface JsonSchema {
  $ref?: string;
  type?: string;
  const?: unknown;
  enum?: unknown[];
  default?: unknown;
  examples?: unknown[];
  properties?: Record<string, JsonSchema>;
  required?: string[];
  items?: JsonSchema;
  minItems?: number;
  anyOf?: JsonSchema[];
  oneOf?: JsonSchema[];
}

/** `request`: what is optional is shown only with an example of its own, so that the example can be sent as it is. */
export type Purpose = 'request' | 'answer';

/** Undefined when nothing is known; test/http/openapi.test.ts finds the places. `$ref`s lead to `components`. */
export function exampleOf(
  schema: JsonSchema,
  purpose: Purpose,
  components: Record<string, JsonSchema>,
): unknown {
  const example = (part: JsonSchema): unknown => {
    if (part.$ref !== undefined) return example(components[part.$ref.split('/').at(-1)!]!);
    if (part.examples !== undefined) return part.examples[0];
    if (part.const !== undefined) return part.const;
    if (part.default !== undefined) return part.default;
    if (part.enum !== undefined) return part.enum[0];
    const branches = part.anyOf ?? part.oneOf;
    if (branches !== undefined) return example(branches[0]!);
    if (part.type === 'boolean') return false;
    if (part.items !== undefined) {
      const item = example(part.items);
      return item === undefined ? [] : [item];
    }
    return part.properties === undefined ? undefined : objectExample(part, part.properties);
  };
  const objectExample = (part: JsonSchema, properties: Record<string, JsonSchema>): object => {
    const shown = Object.entries(properties).filter(
      ([name, field]) =>
        purpose === 'answer' || part.required?.includes(name) || field.examples !== undefined,
    );
    return Object.fromEntries(
      shown.map(([name, field]) => [name, example(field)]).filter(([, value]) => value !== undefined),
    );
  };
  return example(schema);
}
