// How a prompt becomes token ids: the `prompt_format` of a model's finegrain.json, rendered to parts of which the caller
// encodes the texts. Pinned for TypeScript and Python by test/golden/prompt_format.json.

export const messageRoles = ['system', 'user', 'assistant'] as const;
export type MessageRole = (typeof messageRoles)[number];

export interface Message {
  role: MessageRole;
  content: string;
}

/** A text is one message of the user. */
export type Prompt = string | readonly Message[];

/** Token ids before and after the content of a message. */
export interface RoleFormat {
  prefix: number[];
  suffix: number[];
}

export interface PromptFormat {
  bos: number[];
  roles: Record<MessageRole, RoleFormat>;
  generation_prefix: number[];
}

/** Each text is encoded by itself, without special tokens: what it spells never becomes a control token. */
export type PromptPart = { ids: number[] } | { text: string };

/** What ends a prompt: what asks for a response, the last message, or only its content, for others to go on with. */
export type PromptEnd = 'generation_prefix' | 'message' | 'content';

/** bos, then prefix, content and suffix of each message, then the generation prefix; parts of nothing are left out. */
export function renderPrompt(
  format: PromptFormat,
  prompt: Prompt,
  end: PromptEnd = 'generation_prefix',
): PromptPart[] {
  const messages: readonly Message[] =
    typeof prompt === 'string' ? [{ role: 'user', content: prompt }] : prompt;
  const parts: PromptPart[] = [
    { ids: format.bos },
    ...messages.flatMap(({ role, content }, index): PromptPart[] => [
      { ids: format.roles[role].prefix },
      { text: content },
      { ids: end === 'content' && index === messages.length - 1 ? [] : format.roles[role].suffix },
    ]),
    { ids: end === 'generation_prefix' ? format.generation_prefix : [] },
  ];
  return parts.filter((part) => ('ids' in part ? part.ids.length > 0 : part.text !== ''));
}

/**
 * The format of a model folder that brings none.
 * @param bos the model's BOS, if it has one
 * @param separator ids of an empty line ("\n\n"), which ends every message
 */
export function plainPromptFormat(bos: number[], separator: number[]): PromptFormat {
  const role = { prefix: [], suffix: separator };
  return { bos, roles: { system: role, user: role, assistant: role }, generation_prefix: [] };
}
