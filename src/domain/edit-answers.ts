// What a language model answered when it was asked for an edit: the edited text, or why there is none. The text stands
// between tags that carry a mark (docs/adr/0025); whatever is around them, such as thinking aloud, does not count.
import { type Alignment, alignTexts } from './alignment.ts';
import {
  type ChatChoice,
  emptyReasons,
  type Fault as FaultOf,
  faultOf,
  lastBetweenTags,
  readText,
} from './chat-answers.ts';
import type { Minimality } from './minimality.ts';
import { findIllFormed } from './text.ts';

/** Why the service's own editor gives a task up. */
export const failureReasons = {
  ...emptyReasons,
  unmarked: 'The edited response does not stand between the tags that were asked for',
  ill_formed: 'The text contains NUL or a lone surrogate',
  too_long: 'The text is longer than an edit may be',
  unchanged: 'The text is equal to the original',
  rewrite: 'The text is a rewrite rather than a minimal edit',
  not_accepted: 'The service does not take the edit, as a policy of the dataset may say',
  endpoint_refused: 'The endpoint takes other requests, and not the one for this task',
  endpoint_failed: 'The endpoint serves other requests, and failed at the one for this task each time',
} as const;

export type FailureReason = keyof typeof failureReasons;

export type Fault = FaultOf<FailureReason>;

export interface EditQuestion {
  original: string;
  mark: string;
  maxLength: number;
  /** what the dataset asks of its edits */
  policy: Minimality;
}

/** The edited response, or the first thing that is wrong with the answer. */
export function readEditAnswer(
  choice: ChatChoice,
  question: EditQuestion,
): { edited: string; alignment: Alignment } | { fault: Fault } {
  const { original, mark, maxLength, policy } = question;
  const read = readText(choice);
  if ('fault' in read) return read;
  const marked = lastBetweenTags(read.text, `edited-${mark}`)?.inside ?? null;
  if (marked === null)
    return faultOf('unmarked', `There was no text between <edited-${mark}> and </edited-${mark}>.`);
  const edited = unwrap(marked, original);
  if (findIllFormed(edited) !== null)
    return faultOf('ill_formed', 'The text contained characters that are not valid Unicode text.');
  if (edited.length > maxLength)
    return faultOf('too_long', `The text was longer than ${maxLength} characters.`);
  if (edited === original)
    return faultOf('unchanged', 'The text was equal to the response to edit: something has to change.');
  const alignment = alignTexts(original, edited, policy);
  if (!alignment.minimal)
    return faultOf(
      'rewrite',
      `That was more than a minimal edit. ${alignment.warnings.map(({ detail }) => detail).join(' ')}`,
    );
  return { edited, alignment };
}

/** Takes off what models put around a text: white space, which stays the original's, and a code fence that it has not. */
function unwrap(marked: string, original: string): string {
  const trimmed = marked.trim();
  const fenced = original.includes('```') ? null : /^```[\w-]*\n([\s\S]*)\n```$/.exec(trimmed);
  const text = fenced ? fenced[1]!.trim() : trimmed;
  const before = original.slice(0, original.length - original.trimStart().length);
  return original.trim() === '' ? text : before + text + original.slice(original.trimEnd().length);
}
