// A strict reader of the text exposition format 0.0.4 of Prometheus
// (https://prometheus.io/docs/instrumenting/exposition_formats/): what a scraper may stumble over is an error here.

export interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
}

export interface Family {
  type: string;
  help: string;
  samples: Sample[];
}

const metricName = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const labelValue = String.raw`(?:[^"\\\n]|\\["\\n])*`;
const label = `[a-zA-Z_][a-zA-Z0-9_]*="${labelValue}"`;
const sampleLine = new RegExp(`^(${metricName})(?:\\{(${label}(?:,${label})*)?\\})? (\\S+)$`);
const number = /^(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]Inf|NaN)$/;
const suffixes: Record<string, string[]> = {
  histogram: ['_bucket', '_sum', '_count'],
  summary: ['', '_sum', '_count'],
};

/** @throws Error that quotes the line */
export function readExposition(text: string): Map<string, Family> {
  if (!text.endsWith('\n')) throw new Error('the last line does not end');
  const families = new Map<string, Family>();
  const seen = new Set<string>();
  let name = '';
  let help: string | null = null;
  for (const line of text.slice(0, -1).split('\n')) {
    if (line === '') continue;
    const fail = (why: string): never => {
      throw new Error(`${why}: ${line}`);
    };
    const comment = new RegExp(`^# (HELP|TYPE) (${metricName}) (.*)$`).exec(line);
    if (comment?.[1] === 'HELP') {
      [name, help] = [comment[2]!, comment[3]!];
      if (families.has(name)) fail('a family stands in two places');
      if (help === '' || /\\(?![\\n])/.test(help)) fail('no help, or a bad escape in it');
    } else if (comment?.[1] === 'TYPE') {
      if (comment[2] !== name || help === null) fail('TYPE does not follow its HELP');
      if (!/^(counter|gauge|histogram|summary|untyped)$/.test(comment[3]!)) fail('no such type');
      families.set(name, { type: comment[3]!, help: help!, samples: [] });
    } else if (line.startsWith('#')) fail('an unknown comment');
    else {
      const [, sample, labels = '', value] = sampleLine.exec(line) ?? fail('not a sample');
      const family = families.get(name) ?? fail('a sample without a family');
      const allowed = (suffixes[family.type] ?? ['']).map((suffix) => name + suffix);
      if (!allowed.includes(sample!)) fail(`not a sample of the ${family.type} ${name}`);
      if (family.type === 'counter' && !name.endsWith('_total'))
        fail('a counter whose name does not end in _total');
      if (!number.test(value!)) fail('not a number');
      const key = `${sample}{${labels.split(/,(?=[a-zA-Z_])/).sort()}}`;
      if (seen.has(key)) fail('a sample twice');
      seen.add(key);
      family.samples.push({ name: sample!, labels: readLabels(labels), value: readNumber(value!) });
    }
  }
  for (const [family, { type, samples }] of families) {
    if (type === 'histogram') checkHistogram(family, samples);
  }
  return families;
}

function readLabels(text: string): Record<string, string> {
  const plain = (value: string) => value.replaceAll(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
  return Object.fromEntries(
    [...text.matchAll(new RegExp(`([a-zA-Z_][a-zA-Z0-9_]*)="(${labelValue})"`, 'g'))].map(
      ([, name, value]) => [name!, plain(value!)],
    ),
  );
}

const readNumber = (text: string): number => Number(text.replace('Inf', 'Infinity'));

/** Buckets are cumulative, end with +Inf, and agree with the count. */
function checkHistogram(family: string, samples: Sample[]): void {
  const series = new Map<
    string,
    { buckets: [bound: number, count: number][]; count?: number; sum?: number }
  >();
  for (const { name, labels, value } of samples) {
    const { le, ...rest } = labels;
    const key = JSON.stringify(rest);
    const own = series.get(key) ?? { buckets: [] };
    series.set(key, own);
    if (name.endsWith('_bucket')) own.buckets.push([readNumber(le!), value]);
    else if (name.endsWith('_sum')) own.sum = value;
    else own.count = value;
  }
  for (const [key, { buckets, count, sum }] of series) {
    const inOrder = buckets.every(
      ([bound, n], i) => i === 0 || (bound > buckets[i - 1]![0] && n >= buckets[i - 1]![1]),
    );
    const [lastBound, lastCount] = buckets.at(-1) ?? [];
    if (!inOrder || lastBound !== Number.POSITIVE_INFINITY || lastCount !== count || sum === undefined)
      throw new Error(`the buckets of ${family} ${key} do not add up`);
  }
}
