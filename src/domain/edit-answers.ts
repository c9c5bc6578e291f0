// What a language model answered when it was asked for an edit: the edited text, or why there is none. The text stands
// between tags that carry a mark (docs/adr/0025); whatever is around them, such as thinking aloud, does not count.
import { type Alignment, alignTexts } from './alignment.ts';
import type { Minimality } from './minimality.ts';
import { findIllFormed } from './text.ts';

/** Why the service's own editor gives a task up. */
export const failureReasons = {
  empty: 'The model answered nothing',
  not_text: 'The answer of the model is no text',
  truncated: 'The answer ended at the limit of its tokens',
  refusal: 'The model, or a filter before it, would not answer',
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

/** What is wrong with an answer; the model is told the detail. */
export interface Fault {
  reason: FailureReason;
  detail: string;
}

/** The first choice of a chat completion, as it came. */
export interface ChatChoice {
  content: unknown;
  refusal: unknown;
  finishReason: unknown;
}

export interface EditQuestion {
  original: string;
  mark: string;
  maxLength: number;
  /** what the dataset asks of its edits */
  policy: Minimality;
}

const faultOf = (reason: FailureReason, detail: string) => ({ fault: { reason, detail } });

/** The edited response, or the first thing that is wrong with the answer. */
export function readEditAnswer(
  choice: ChatChoice,
  question: EditQuestion,
): { edited: string; alignment: Alignment } | { fault: Fault } {
  const { original, mark, maxLength, policy } = question;
  const content = textOf(choice.content);
  if (typeof choice.refusal === 'string' && choice.refusal !== '')
    return faultOf('refusal', 'You refused to answer.');
  if (choice.finishReason === 'content_filter')
    return faultOf('refusal', 'The answer was withheld by a content filter.');
  if (content === null)
    return choice.content === null || choice.content === undefined
      ? faultOf('empty', 'There was no answer.')
      : faultOf('not_text', 'The answer was no text.');
  // also where the tags are closed: what comes after the limit might have been the answer proper
  if (choice.finishReason === 'length')
    return faultOf('truncated', 'The answer was cut off at the limit of its length: be brief.');
  if (content.trim() === '') return faultOf('empty', 'The answer was empty.');
  const marked = betweenTags(content, mark);
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

/** A string, or the text parts of a list of parts; null for anything else. */
function textOf(content: unknown): string | null {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content) || content.length === 0) return null;
  const texts = content.map((part) => (part as { text?: unknown } | null)?.text);
  return texts.every((text) => typeof text === 'string') ? texts.join('') : null;
}

/** The last text between the tags: models that think aloud may name them before they answer. */
function betweenTags(content: string, mark: string): string | null {
  const [opening, closing] = [`<edited-${mark}>`, `</edited-${mark}>`];
  const end = content.lastIndexOf(closing);
  const start = end < 0 ? -1 : content.lastIndexOf(opening, end);
  return start < 0 ? null : content.slice(start + opening.length, end);
}

/** Takes off what models put around a text: white space, which stays the original's, and a code fence that it has not. */
function unwrap(marked: string, original: string): string {
  const trimmed = marked.trim();
  const fenced = original.includes('```') ? null : /^```[\w-]*\n([\s\S]*)\n```$/.exec(trimmed);
  const text = fenced ? fenced[1]!.trim() : trimmed;
  const before = original.slice(0, original.length - original.trimStart().length);
  return original.trim() === '' ? text : before + text + original.slice(original.trimEnd().length);
}

/** What of an answer is kept for a person to look at: as much as the database can hold of it. */
export function keptOutput(content: unknown, maxLength: number): string | null {
  const text =
    textOf(content) ?? (content === null || content === undefined ? null : JSON.stringify(content));
  return text === null ? null : text.slice(0, maxLength).replaceAll('\0', '\ufffd').toWellFormed();
}
