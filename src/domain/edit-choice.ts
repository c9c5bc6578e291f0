// Which of several competing edits of one response stands for them all.
import { splitWords } from './words.ts';

const rounding = 1e-9;

export interface CompetingEdit {
  /** sorts by the time of creation */
  id: string;
  edited_response: string;
}

/**
 * The edit whose text most editors submitted. Among texts that equally many submitted, all different ones included, the one
 * that agrees best with the other edits (mean F1 of words, order aside); then the latest. Of equal texts the latest edit.
 * undefined for an empty list.
 */
export function majorityEdit<Edit extends CompetingEdit>(edits: readonly Edit[]): Edit | undefined {
  const byText = new Map<string, { edit: Edit; count: number }>();
  for (const edit of edits) {
    const known = byText.get(edit.edited_response);
    if (known) known.count++;
    if (!known) byText.set(edit.edited_response, { edit, count: 1 });
    else if (edit.id > known.edit.id) known.edit = edit;
  }
  // sums of fractions depend on the order of their terms: one order for all callers
  const texts = [...byText.values()].sort((one, other) => (one.edit.id < other.edit.id ? -1 : 1));
  const most = Math.max(...texts.map(({ count }) => count));
  const leading = texts.filter(({ count }) => count === most);
  if (leading.length < 2) return leading[0]?.edit;
  const counted = texts.map((text) => ({ ...text, words: countWords(text.edit.edited_response) }));
  // leading texts have equally many copies of themselves: only the other texts can tell them apart
  const ranked = counted
    .filter(({ count }) => count === most)
    .map((one) => ({
      edit: one.edit,
      agreement: counted.reduce(
        (sum, other) => sum + (other === one ? 0 : other.count * wordF1(one.words, other.words)),
        0,
      ),
    }));
  return ranked.reduce((best, next) => (next.agreement > best.agreement - rounding ? next : best)).edit;
}

interface CountedWords {
  counts: Map<string, number>;
  total: number;
}

function countWords(text: string): CountedWords {
  const { text: words } = splitWords(text);
  const counts = new Map<string, number>();
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
  return { counts, total: words.length };
}

function wordF1(one: CountedWords, other: CountedWords): number {
  let common = 0;
  for (const [word, count] of one.counts) common += Math.min(count, other.counts.get(word) ?? 0);
  const all = one.total + other.total;
  return all === 0 ? 1 : (2 * common) / all;
}
