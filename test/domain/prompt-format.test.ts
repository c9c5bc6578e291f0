import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import t from 'tap';
import { Tokenizer } from 'tokenizers';
import {
  type Prompt,
  type PromptFormat,
  plainPromptFormat,
  renderPrompt,
} from '../../src/domain/prompt-format.ts';

interface Golden {
  tokenizer: string;
  tokenizer_digest: string;
  formats: Record<'chat' | 'plain', { eos_token_id: number; prompt_format: PromptFormat }>;
  prompts: { name: string; prompt: Prompt; token_ids: Record<'chat' | 'plain', number[]> }[];
  responses: { name: string; response: string; token_ids: number[] }[];
}

const folder = new URL('../golden/', import.meta.url);
const golden = JSON.parse(await readFile(new URL('prompt_format.json', folder), 'utf8')) as Golden;
const tokenizerBytes = await readFile(new URL(golden.tokenizer, folder));
const { added_tokens: addedTokens, ...tokenizerJson } = JSON.parse(tokenizerBytes.toString()) as {
  added_tokens: { special: boolean }[];
};
const tokenizer = Tokenizer.fromString(
  JSON.stringify({ ...tokenizerJson, added_tokens: addedTokens.filter(({ special }) => !special) }),
);
const encode = async (text: string): Promise<number[]> =>
  (await tokenizer.encode(text, null, { addSpecialTokens: false })).getIds();

t.test('prompts become the token ids that the trainer gives them', async (t) => {
  t.equal(`sha256:${createHash('sha256').update(tokenizerBytes).digest('hex')}`, golden.tokenizer_digest);
  for (const { name, prompt, token_ids } of golden.prompts) {
    for (const format of ['chat', 'plain'] as const) {
      const parts = renderPrompt(golden.formats[format].prompt_format, prompt);
      const ids = await Promise.all(parts.map((part) => ('ids' in part ? part.ids : encode(part.text))));
      t.same(ids.flat(), token_ids[format], `${name}, ${format}`);
    }
  }
});

t.test('responses become the token ids that the trainer gives them', async (t) => {
  for (const { name, response, token_ids } of golden.responses) {
    t.same([...(await encode(response)), golden.formats.chat.eos_token_id], token_ids, name);
  }
});

t.test('the format of a folder that brings none ends each message with an empty line', async (t) => {
  const { plain } = golden.formats;
  t.same(plainPromptFormat([1], await encode('\n\n')), plain.prompt_format);
});

t.test('a prompt can end with its last message, or with the content of that', (t) => {
  const format: PromptFormat = {
    bos: [1],
    roles: {
      system: { prefix: [2], suffix: [] },
      user: { prefix: [3], suffix: [4] },
      assistant: { prefix: [5], suffix: [6] },
    },
    generation_prefix: [5],
  };
  const messages: Prompt = [
    { role: 'user', content: 'Hi' },
    { role: 'assistant', content: 'Hello' },
  ];
  const begin = [{ ids: [1] }, { ids: [3] }, { text: 'Hi' }, { ids: [4] }, { ids: [5] }, { text: 'Hello' }];
  t.same(renderPrompt(format, messages, 'content'), begin);
  t.same(renderPrompt(format, messages, 'message'), [...begin, { ids: [6] }]);
  t.same(renderPrompt(format, messages), [...begin, { ids: [6] }, { ids: [5] }]);
  t.end();
});

t.test('a text prompt is one message of the user, and parts of nothing are left out', async (t) => {
  const { prompt_format: chat } = golden.formats.chat;
  t.same(renderPrompt(chat, 'Hi'), renderPrompt(chat, [{ role: 'user', content: 'Hi' }]));
  t.same(renderPrompt(plainPromptFormat([], [7]), ''), [{ ids: [7] }]);
});
