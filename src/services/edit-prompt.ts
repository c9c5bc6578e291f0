// The prompt that asks a model for the smallest edit: a file of src/prompts, whose name is the version that is stored with
// each edit. A file that was released does not change; a better prompt is a new one.
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { Prompt } from './pair-rows.ts';

export const promptVersion = 'edit-1';

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface EditWork {
  prompt: Prompt;
  response: string;
  preferred: string;
  instructions: string | null;
}

export interface EditPrompt {
  /** what the tags around texts end in */
  mark: string;
  messages: ChatMessage[];
  /** What is said after an answer that cannot be taken. */
  again(fault: string): string;
}

/** @returns what makes the prompt of a piece of work */
export async function readEditPrompt(): Promise<(work: EditWork) => EditPrompt> {
  const file = await readFile(new URL(`../prompts/${promptVersion}.txt`, import.meta.url), 'utf8');
  const parts = new Map(
    file
      .split(/^=== /m)
      .slice(1)
      .map((part) => [part.slice(0, part.indexOf('\n')), part.slice(part.indexOf('\n') + 1)]),
  );
  return (work) => {
    const texts = {
      prompt: plainPrompt(work.prompt),
      preferred: work.preferred,
      response: work.response,
      instructions: work.instructions ?? '',
    };
    const mark = markOf(Object.values(texts));
    const fill = (name: string, values: Record<string, string>): string =>
      // one pass: what the values spell is never looked at
      parts.get(name)!.replaceAll(/\{\{(\w+)\}\}/g, (_, key: string) => values[key]!);
    const guidelines = work.instructions?.trim() ? fill('guidelines', { ...texts, mark }) : '';
    return {
      mark,
      messages: [
        { role: 'system', content: fill('system', { mark }).trim() },
        { role: 'user', content: guidelines + fill('user', { ...texts, mark }).trim() },
      ],
      again: (fault) => fill('again', { fault, mark }).trim(),
    };
  };
}

/** Nobody can write a text that contains a hash of itself, so no text closes its own tag; equal work has equal messages. */
function markOf(texts: string[]): string {
  for (let salt = 0; ; salt++) {
    const digest = createHash('sha256')
      .update(JSON.stringify([salt, ...texts]))
      .digest('hex');
    const mark = digest.slice(0, 8);
    if (!texts.some((text) => text.includes(mark))) return mark;
  }
}

const plainPrompt = (prompt: Prompt): string =>
  typeof prompt === 'string' ? prompt : prompt.map(({ role, content }) => `${role}: ${content}`).join('\n\n');
