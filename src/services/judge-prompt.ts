// The prompt that asks a model which of two responses is better.
import { type LlmPrompt, markOf, plainPrompt, readPrompt } from './llm-prompt.ts';
import type { Prompt } from './pair-rows.ts';

export const promptVersion = 'judge-1';

export interface JudgeWork {
  prompt: Prompt;
  first: string;
  second: string;
}

export interface JudgeManner {
  mode: 'verdict' | 'logprobs';
  ties: boolean;
  instructions: string | null;
}

/** @returns what makes the prompt of a piece of work */
export async function readJudgePrompt(manner: JudgeManner): Promise<(work: JudgeWork) => LlmPrompt> {
  const fill = await readPrompt(promptVersion);
  const part = manner.mode === 'logprobs' ? 'letter' : manner.ties ? 'verdict-or-tie' : 'verdict';
  return (work) => {
    const texts = {
      prompt: plainPrompt(work.prompt),
      first: work.first,
      second: work.second,
      instructions: manner.instructions ?? '',
    };
    const mark = markOf(Object.values(texts));
    const how = fill(part, { mark }).trim();
    const guidelines = manner.instructions?.trim() ? fill('guidelines', { ...texts, mark }) : '';
    return {
      mark,
      messages: [
        { role: 'system', content: fill('system', { mark, how }).trim() },
        { role: 'user', content: guidelines + fill('user', { ...texts, mark, how }).trim() },
      ],
      again: (fault) => fill('again', { fault, how }).trim(),
    };
  };
}
