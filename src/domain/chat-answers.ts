// The answer of a chat endpoint: its first choice as it came, and what of it is text.

/** The first choice of a chat completion, as it came. */
export interface ChatChoice {
  content: unknown;
  refusal: unknown;
  finishReason: unknown;
  logprobs: unknown;
}

/** Why an answer holds no text to read. */
export const emptyReasons = {
  empty: 'The model answered nothing',
  not_text: 'The answer of the model is no text',
  truncated: 'The answer ended at the limit of its tokens',
  refusal: 'The model, or a filter before it, would not answer',
} as const;

/** What is wrong with an answer; the model is told the detail. */
export interface Fault<Reason extends string = string> {
  reason: Reason;
  detail: string;
}

export const faultOf = <Reason extends string>(reason: Reason, detail: string) => ({
  fault: { reason, detail },
});

/** The text of an answer that came to its end and says something, or what is wrong with it. */
export function readText(choice: ChatChoice): { text: string } | { fault: Fault<keyof typeof emptyReasons> } {
  const text = textOf(choice.content);
  if (typeof choice.refusal === 'string' && choice.refusal !== '')
    return faultOf('refusal', 'You refused to answer.');
  if (choice.finishReason === 'content_filter')
    return faultOf('refusal', 'The answer was withheld by a content filter.');
  if (text === null)
    return choice.content === null || choice.content === undefined
      ? faultOf('empty', 'There was no answer.')
      : faultOf('not_text', 'The answer was no text.');
  // also where the tags are closed: what comes after the limit might have been the answer proper
  if (choice.finishReason === 'length')
    return faultOf('truncated', 'The answer was cut off at the limit of its length: be brief.');
  if (text.trim() === '') return faultOf('empty', 'The answer was empty.');
  return { text };
}

/** A string, or the text parts of a list of parts; null for anything else. */
function textOf(content: unknown): string | null {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content) || content.length === 0) return null;
  const texts = content.map((part) => (part as { text?: unknown } | null)?.text);
  return texts.every((text) => typeof text === 'string') ? texts.join('') : null;
}

/** The last text between the tags: models that think aloud may name them before they answer. */
export function lastBetweenTags(text: string, tag: string): { inside: string; before: string } | null {
  const [opening, closing] = [`<${tag}>`, `</${tag}>`];
  const end = text.lastIndexOf(closing);
  const start = end < 0 ? -1 : text.lastIndexOf(opening, end);
  return start < 0 ? null : { inside: text.slice(start + opening.length, end), before: text.slice(0, start) };
}

/** As far as they are read; nothing of them is known to be so. */
interface Logprobs {
  content?: { top_logprobs?: unknown }[] | null;
}

const topLogprobs = ({ logprobs }: ChatChoice): unknown =>
  (logprobs as Logprobs | null | undefined)?.content?.[0]?.top_logprobs;

/** The answer is there, and nothing says how likely its tokens were. */
export const lacksLogprobs = (choice: ChatChoice): boolean =>
  Boolean(textOf(choice.content)?.trim()) && !Array.isArray(topLogprobs(choice));

/** What the first token could have been, as far as the endpoint says it. */
export function likelyFirstTokens(choice: ChatChoice): { token: string; logprob: number }[] {
  const tokens = topLogprobs(choice);
  return (Array.isArray(tokens) ? tokens : []).filter(
    (one) => typeof one?.token === 'string' && typeof one.logprob === 'number',
  );
}

/** What of an answer is kept for a person to look at: as much as the database can hold of it. */
export function keptOutput(content: unknown, maxLength: number): string | null {
  const text =
    textOf(content) ?? (content === null || content === undefined ? null : JSON.stringify(content));
  return text === null ? null : keptText(text, maxLength);
}

export const keptText = (text: string, maxLength: number): string =>
  text.slice(0, maxLength).replaceAll('\0', '\ufffd').toWellFormed();
