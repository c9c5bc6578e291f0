// Which pairs are meant: one filter for lists, exports, edit requests and snapshots.
import type { PairFilterValues } from '../db/pairs.ts';
import { unprocessable } from '../errors.ts';
import { parseJson } from './json-input.ts';

/** All of it must hold. */
export interface PairFilter {
  external_ids?: string[];
  /** `none`: not known */
  preference?: 'a' | 'b' | 'none';
  /** an accepted one */
  has_edit?: boolean;
  created_after?: string;
  created_before?: string;
  /** what the metadata of a pair must contain */
  metadata?: Record<string, unknown>;
}

/** In a query string what is a list or an object is its JSON. */
export interface PairFilterQuery extends Omit<PairFilter, 'external_ids' | 'metadata'> {
  external_ids?: string;
  metadata?: string;
}

const mostExternalIds = 10_000;
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isIdList = (value: unknown): value is string[] =>
  Array.isArray(value) && value.length <= mostExternalIds && value.every((id) => typeof id === 'string');

/** @throws Problem unprocessable with a pointer to what is not such JSON */
export function filterOfQuery({ external_ids, metadata, ...rest }: PairFilterQuery): PairFilter {
  return {
    ...rest,
    ...(external_ids === undefined
      ? {}
      : { external_ids: jsonOf('external_ids', external_ids, isIdList, 'a JSON list of strings') }),
    ...(metadata === undefined ? {} : { metadata: jsonOf('metadata', metadata, isObject, 'a JSON object') }),
  };
}

function jsonOf<T>(name: string, text: string, fits: (value: unknown) => value is T, what: string): T {
  const parsed = parseJson(Buffer.from(text));
  if ('error' in parsed) throw unprocessable(`/${name}${parsed.error.pointer}`, parsed.error.detail, 'query');
  if (!fits(parsed.value)) throw unprocessable(`/${name}`, `must be ${what}`, 'query');
  return parsed.value;
}

/** @throws Problem unprocessable for a time that is none */
export function filterValues(
  filter: PairFilter = {},
  { pointer = '', in: place = 'query' }: { pointer?: string; in?: 'query' | 'body' } = {},
): PairFilterValues {
  const time = (name: 'created_after' | 'created_before'): Date | null => {
    const given = filter[name];
    if (given === undefined) return null;
    const at = new Date(given);
    if (Number.isNaN(at.getTime())) throw unprocessable(`${pointer}/${name}`, 'is no time', place); // a leap second, say
    return at;
  };
  return {
    externalIds: filter.external_ids ?? null,
    preference: filter.preference ?? null,
    hasEdit: filter.has_edit ?? null,
    createdAfter: time('created_after'),
    createdBefore: time('created_before'),
    metadata: filter.metadata === undefined ? null : JSON.stringify(filter.metadata),
  };
}
