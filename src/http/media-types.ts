// Content negotiation (RFC 9110, 12): quality values of Accept and Accept-Encoding.

interface Preference {
  /** lower case, without parameters */
  name: string;
  quality: number;
}

/** The members of the list; one that is not well formed does not count. */
function readPreferences(header: string): Preference[] {
  return header.split(',').flatMap((member) => {
    const [name, ...parameters] = member.split(';').map((part) => part.trim().toLowerCase());
    const weight = parameters.find((parameter) => /^q\s*=/.test(parameter));
    const quality = weight === undefined ? 1 : readQuality(weight.slice(weight.indexOf('=') + 1).trim());
    return name === '' || quality === null ? [] : [{ name: name!, quality }];
  });
}

const readQuality = (text: string): number | null =>
  /^(0(\.\d{0,3})?|1(\.0{0,3})?)$/.test(text) ? Number(text) : null;

/**
 * How welcome a media type is, 0 for not at all: the most specific range that covers it decides, whatever its
 * parameters. Everything is welcome where the header is absent or empty.
 */
export function qualityOfType(accept: string | undefined, mediaType: string): number {
  if (accept === undefined || accept.trim() === '') return 1;
  const [type] = mediaType.split('/');
  const preferences = readPreferences(accept);
  for (const range of [mediaType, `${type}/*`, '*/*']) {
    const named = preferences.filter(({ name }) => name === range);
    if (named.length > 0) return Math.max(...named.map(({ quality }) => quality));
  }
  return 0;
}

/** Whether a client would rather have one type than the one that it gets otherwise. */
export const prefersType = (accept: string | undefined, mediaType: string, otherwise: string): boolean =>
  qualityOfType(accept, mediaType) > qualityOfType(accept, otherwise);

/** The one of `types` that a client would have, the first of equals. */
export const preferredType = <T extends string>(accept: string | undefined, types: readonly T[]): T =>
  types.reduce((best, type) => (prefersType(accept, type, best) ? type : best));

export const contentEncodings = ['br', 'gzip'] as const;
export type ContentEncoding = (typeof contentEncodings)[number];

/** The encoding that is wanted most, br before gzip; null: none, or not to be encoded rather than that. */
export function preferredEncoding(acceptEncoding: string | undefined): ContentEncoding | null {
  const preferences = readPreferences((acceptEncoding ?? '').replaceAll(/\bx-gzip\b/gi, 'gzip'));
  const qualityOf = (encoding: string): number | undefined =>
    preferences.find(({ name }) => name === encoding)?.quality;
  const otherwise = qualityOf('*') ?? 0;
  let best: ContentEncoding | null = null;
  let bestQuality = Math.max(qualityOf('identity') ?? 0, Number.MIN_VALUE);
  for (const encoding of contentEncodings) {
    const quality = qualityOf(encoding) ?? otherwise;
    if (quality > bestQuality || (best === null && quality === bestQuality)) {
      best = encoding;
      bestQuality = quality;
    }
  }
  return best;
}
