// How well changed spans agree with the spans that people marked as errors: token precision, recall and F1, micro-averaged.
// Items without error spans, or without a change, count as they are.
import { createRandom } from '../../examples/world/random.ts';
import { positionsFromCodePoints, type Span } from '../../src/domain/text.ts';
import { quantile } from '../../test/soak/trend.ts';

export interface HumanEdit {
  rejected: string;
  chosen: string;
  errorSpans: Span[];
}

/** One JSON object a line: `rejected`, `chosen`, `error_spans` as [start, end, type] in code points of `rejected`. */
export function parseHumanEdits(ndjson: string): HumanEdit[] {
  const lines = ndjson.split('\n').filter((line) => line.trim() !== '');
  return lines.map((line) => {
    const { rejected, chosen, error_spans } = JSON.parse(line);
    const inUtf16 = positionsFromCodePoints(rejected);
    const spans = (error_spans as [number, number][]).map(
      ([start, end]): Span => [inUtf16(start), inUtf16(end) ?? rejected.length],
    );
    return { rejected, chosen, errorSpans: spans };
  });
}

/** Tokens that were marked by both, by the method alone, by people alone. */
export interface Hits {
  both: number;
  methodOnly: number;
  peopleOnly: number;
}

const tokens = /[\p{L}\p{N}_]+|[^\p{L}\p{N}_\s]/gu; // Python's `\w+|[^\w\s]`

export function countHits(text: string, changed: readonly Span[], errors: readonly Span[]): Hits {
  const hits: Hits = { both: 0, methodOnly: 0, peopleOnly: 0 };
  for (const { 0: token, index } of text.matchAll(tokens)) {
    const meets = ([start, end]: Span) => start < index + token.length && end > index;
    const [marked, wrong] = [changed.some(meets), errors.some(meets)];
    if (marked && wrong) hits.both++;
    else if (marked) hits.methodOnly++;
    else if (wrong) hits.peopleOnly++;
  }
  return hits;
}

export interface Score {
  precision: number;
  recall: number;
  f1: number;
}

export function scoreOf(items: readonly Hits[]): Score {
  const sum = (key: keyof Hits) => items.reduce((total, hits) => total + hits[key], 0);
  const [both, methodOnly, peopleOnly] = [sum('both'), sum('methodOnly'), sum('peopleOnly')];
  return {
    precision: both / (both + methodOnly),
    recall: both / (both + peopleOnly),
    f1: (2 * both) / (2 * both + methodOnly + peopleOnly),
  };
}

const resamples = 2000;

/** 95 % percentile bootstrap over items, drawn alike for every method, of a figure of several methods' hits. */
export function bootstrap(
  methods: readonly (readonly Hits[])[],
  figure: (f1: number[]) => number,
): [low: number, high: number] {
  const random = createRandom('alignment');
  const count = methods[0]!.length;
  const values = Array.from({ length: resamples }, () => {
    const drawn = Array.from({ length: count }, () => random.integer(count));
    return figure(methods.map((items) => scoreOf(drawn.map((k) => items[k]!)).f1));
  });
  return [quantile(values, 0.025), quantile(values, 0.975)];
}
