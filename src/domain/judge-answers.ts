// What a language model answered when it was asked which of two responses is better: a verdict between tags that carry a
// mark, after whatever it says before; or the probabilities of the letters that it could answer with, as AlpacaEval 2 weighs them.
import {
  type ChatChoice,
  emptyReasons,
  type Fault,
  faultOf,
  lastBetweenTags,
  likelyFirstTokens,
  readText,
} from './chat-answers.ts';

/** Why an answer cannot be read. */
export const unreadableReasons = {
  ...emptyReasons,
  unmarked: 'No verdict stands between the tags that were asked for',
  unclear: 'The verdict is none of those that were asked for',
  no_letter: 'None of the letters that were asked for is among the most likely tokens',
} as const;

export type UnreadableReason = keyof typeof unreadableReasons;

export interface ReadVerdict {
  /** the share of the response that was shown first: 1 when it is better, ½ for a tie */
  first: number;
  explanation: string;
}

/** The last verdict of an answer. */
export function readVerdict(
  choice: ChatChoice,
  { mark, ties }: { mark: string; ties: boolean },
): ReadVerdict | { fault: Fault<UnreadableReason> } {
  const read = readText(choice);
  if ('fault' in read) return read;
  const verdict = lastBetweenTags(read.text, `verdict-${mark}`);
  if (verdict === null)
    return faultOf('unmarked', `There was no verdict between <verdict-${mark}> and </verdict-${mark}>.`);
  const first = shares.get(bare(verdict.inside));
  if (first === undefined || (first === 0.5 && !ties))
    return faultOf('unclear', `The verdict was neither ${ties ? 'A, B nor tie' : 'A nor B'}.`);
  return { first, explanation: verdict.before.trim() };
}

const shares = new Map([
  ['a', 1],
  ['b', 0],
  ['tie', 0.5],
]);

/** Without the brackets, quotes and asterisks that models put around a verdict, and the word before it. */
const bare = (verdict: string): string =>
  verdict
    .toLowerCase()
    .replaceAll(/[\s[\](){}"'`*.]/g, '')
    .replace(/^response/, '');

export interface ReadLetters {
  /** the share of the response that was shown first */
  first: number;
  /** natural logarithms of the probabilities of the letters; null for one that is not among the most likely tokens */
  logprobs: { first: number | null; second: number | null };
}

/** P(A) / (P(A) + P(B)) at the first token, over all spellings of a letter. */
export function readLetters(choice: ChatChoice): ReadLetters | { fault: Fault<UnreadableReason> } {
  const likely = likelyFirstTokens(choice);
  const probability = (letter: string): number =>
    likely
      .filter(({ token }) => lettersOf(token) === letter)
      .reduce((sum, { logprob }) => sum + Math.exp(Math.min(0, logprob)), 0);
  const [first, second] = [probability('A'), probability('B')];
  if (first + second === 0)
    return faultOf('no_letter', 'The answer was neither A nor B, nor was one of them likely.');
  const logarithm = (p: number): number | null => (p === 0 ? null : Math.log(p));
  return {
    first: first / (first + second),
    logprobs: { first: logarithm(first), second: logarithm(second) },
  };
}

/** Without the marks of a space before it, which some endpoints answer as their tokenizers have them. */
const lettersOf = (token: string): string => token.replaceAll(/[\s\u2581\u0120]/g, '');
