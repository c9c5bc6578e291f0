// The prompt that asks a model for the smallest edit.
import { type LlmPrompt, markOf, plainPrompt, readPrompt } from './llm-prompt.ts';
import type { Prompt } from './pair-rows.ts';

export const promptVersion = 'edit-1';

export interface EditWork {
  prompt: Prompt;
  response: string;
  preferred: string;
  instructions: string | null;
}

/** @returns what makes the prompt of a piece of work */
export async function readEditPrompt(): Promise<(work: EditWork) => LlmPrompt> {
  const fill = await readPrompt(promptVersion);
  return (work) => {
    const texts = {
      prompt: plainPrompt(work.prompt),
      preferred: work.preferred,
      response: work.response,
      instructions: work.instructions ?? '',
    };
    const mark = markOf(Object.values(texts));
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
