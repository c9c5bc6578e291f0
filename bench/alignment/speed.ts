// Time of an alignment: on pairs of ordinary length, on 20 kB that are hard, and how it grows with the length.
import { alignTexts } from '../../src/domain/alignment.ts';
import { quantile } from '../../test/soak/trend.ts';
import type { HumanEdit } from './human-spans.ts';
import { limitSeconds, type Method, type Methods } from './methods.ts';
import { hardTexts } from './texts.ts';

const barMs = 100;
const rounds = 5;
const askedOnceOverMs = 2000; // a peer

type Timings = Record<'ours' | 'myers' | 'difflib', number[]>;

async function timeOnce(method: Method, [original, edited]: [string, string]): Promise<number> {
  return (await method(original, edited))?.milliseconds ?? Number.POSITIVE_INFINITY;
}

async function inTurn(methods: Methods, texts: [string, string], into: Timings, times: number) {
  for (let round = 0; round < times; round++) {
    for (const name of ['ours', 'myers', 'difflib'] as const) {
      if (name !== 'ours' && into[name].some((ms) => ms > askedOnceOverMs)) continue;
      into[name].push(await timeOnce(methods[name], texts));
    }
  }
}

const none = (): Timings => ({ ours: [], myers: [], difflib: [] });
const show = (ms: number): string =>
  ms === Number.POSITIVE_INFINITY ? `> ${limitSeconds * 1000}` : ms >= 10 ? ms.toFixed(0) : ms.toFixed(2);

function row(what: string, timings: Timings): string {
  const [ours, myers, difflib] = [timings.ours, timings.myers, timings.difflib].map((all) =>
    quantile(all, 0.5),
  );
  const times = difflib! / ours!;
  const ratio =
    times === Number.POSITIVE_INFINITY ? `> ${((limitSeconds * 1000) / ours!).toFixed(0)}` : times.toFixed(1);
  return `| ${what} | ${show(ours!)} | ${show(myers!)} | ${show(difflib!)} | ${ratio} |`;
}

const head = `| ms | ours | Myers | difflib | difflib : ours |
| --- | --- | --- | --- | --- |`;

export async function measureSpeed(methods: Methods, edits: HumanEdit[]): Promise<string> {
  const pairs = edits.map(({ rejected, chosen }): [string, string] => [rejected, chosen]);
  for (const texts of pairs) await inTurn(methods, texts, none(), 1); // compiled by now
  const typical = none();
  for (const texts of pairs) await inTurn(methods, texts, typical, rounds);
  const characters = quantile(
    pairs.map(([original]) => original.length),
    0.5,
  );

  const hard: string[] = [];
  const slowest: number[] = [];
  for (const [what, texts] of Object.entries(hardTexts(20_000))) {
    const timings = none();
    await inTurn(methods, texts, timings, rounds);
    hard.push(row(what, timings));
    slowest.push(quantile(timings.ours, 0.5));
  }
  const worst = Math.max(...slowest);
  return [
    '## Time',
    `Pairs as they are: median of ${pairs.length} pairs × ${rounds}, half of them over ${characters} characters. The peers get the words ready-made, ours begins with
the texts and ends with segments and statistics. Milliseconds, in turn.`,
    `${head}\n${row('human corrections', typical)}`,
    `Hard texts, 20,000 UTF-16 units on either side: medians of ${rounds}; a peer that took more than ${askedOnceOverMs / 1000} s was asked once, and given up after ${limitSeconds} s.`,
    `${head}\n${hard.join('\n')}`,
    `- **${worst <= barMs ? 'reached' : 'missed'}**: at most ${barMs} ms on 20 kB: ${worst.toFixed(0)} ms for the worst of these texts`,
    growth(),
  ].join('\n\n');
}

/** Ours alone: beyond the limit of work a text costs what its length does. */
function growth(): string {
  const lengths = [2_000, 20_000, 200_000, 2_000_000];
  const columns = lengths.map(hardTexts);
  const rows = Object.keys(columns[0]!).map((what) => {
    const cells = columns.map((texts) => {
      const times = Array.from({ length: 3 }, () => {
        const begun = performance.now();
        const { warnings } = alignTexts(...texts[what]!);
        return {
          ms: performance.now() - begun,
          coarse: warnings.some(({ code }) => code === 'aligned_coarsely'),
        };
      });
      return `${show(
        quantile(
          times.map(({ ms }) => ms),
          0.5,
        ),
      )}${times[0]!.coarse ? ' *' : ''}`;
    });
    return `| ${what} | ${cells.join(' | ')} |`;
  });
  return [
    'How it grows, in milliseconds (median of 3). * = the limit of work was reached and the alignment says `aligned_coarsely`.',
    `| characters | ${lengths.map((length) => length.toLocaleString('en')).join(' | ')} |
| --- |${lengths.map(() => ' --- |').join('')}\n${rows.join('\n')}`,
  ].join('\n\n');
}
