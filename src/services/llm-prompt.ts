// Prompts for language models: files of src/prompts, whose names are the versions that are stored with what comes of them. A
// file that was released does not change; a better prompt is a new one. A file has parts, `=== name`, with {{places}}.
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { ChatMessage } from './chat-endpoint.ts';
import type { Prompt } from './pair-rows.ts';

/** What a model is asked, and how it is asked again. */
export interface LlmPrompt {
  /** what the tags around texts end in */
  mark: string;
  messages: ChatMessage[];
  /** What is said after an answer that cannot be taken. */
  again(fault: string): string;
}

/** A part with its places filled. */
export type Fill = (part: string, values: Record<string, string>) => string;

export async function readPrompt(version: string): Promise<Fill> {
  const file = await readFile(new URL(`../prompts/${version}.txt`, import.meta.url), 'utf8');
  const parts = new Map(
    file
      .split(/^=== /m)
      .slice(1)
      .map((part) => [part.slice(0, part.indexOf('\n')), part.slice(part.indexOf('\n') + 1)]),
  );
  return (part, values) =>
    // one pass: what the values spell is never looked at
    parts.get(part)!.replaceAll(/\{\{(\w+)\}\}/g, (_, key: string) => values[key]!);
}

/** Nobody can write a text that contains a hash of itself, so no text closes its own tag; equal work has equal messages. */
export function markOf(texts: string[]): string {
  for (let salt = 0; ; salt++) {
    const digest = createHash('sha256')
      .update(JSON.stringify([salt, ...texts]))
      .digest('hex');
    const mark = digest.slice(0, 8);
    if (!texts.some((text) => text.includes(mark))) return mark;
  }
}

export const plainPrompt = (prompt: Prompt): string =>
  typeof prompt === 'string' ? prompt : prompt.map(({ role, content }) => `${role}: ${content}`).join('\n\n');
