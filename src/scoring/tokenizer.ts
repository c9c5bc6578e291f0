// The tokenizer of a model folder: prompts and responses as token ids, the way the model was trained on them, and where
// each token of a response stands in the text. Text that spells a control token is encoded as the text that it is.
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Tokenizer } from 'tokenizers';
import { type Prompt, type PromptFormat, plainPromptFormat, renderPrompt } from '../domain/prompt-format.ts';
import type { Span } from '../domain/text.ts';
import { tileOffsets } from '../domain/token-offsets.ts';
import { ModelRefused } from './model-json.ts';
import { readModelManifest } from './model-manifest.ts';

/** A response without EOS. Spans are in UTF-16, see domain/token-offsets.ts. */
export interface EncodedResponse {
  /** of the whole response; more than `tokenIds` has when a limit cut it short */
  tokenCount: number;
  tokenIds: number[];
  /** tile the text */
  offsets: Span[];
  /** overlap where tokens share a character */
  covers: Span[];
}

export interface ModelTokenizer {
  /** `sha256:` of tokenizer.json */
  digest: string;
  eosTokenId: number;
  /** prompt and response together, in tokens */
  contextLength: number;
  promptFormat: PromptFormat;
  encodePrompt(prompt: Prompt): Promise<number[]>;
  /** @param limit gives the first tokens only, and spares the rest of the work */
  encodeResponse(response: string, limit?: number): Promise<EncodedResponse>;
}

/** @throws ModelRefused when the folder has no tokenizer that can be loaded */
export async function loadModelTokenizer(folder: string): Promise<ModelTokenizer> {
  const { promptFormat, eosTokenId, contextLength } = await readModelManifest(folder);
  const bytes = await readFile(join(folder, 'tokenizer.json')).catch((error: NodeJS.ErrnoException) => {
    throw error.code === 'ENOENT' ? new ModelRefused('tokenizer.json is missing') : error;
  });
  const tokenizer = openTokenizer(bytes.toString());
  const encode = (text: string) => tokenizer.encode(text, null, { addSpecialTokens: false });
  const encodeIds = async (text: string) => (await encode(text)).getIds();
  const format =
    'plain' in promptFormat
      ? plainPromptFormat(promptFormat.plain.bos, await encodeIds('\n\n'))
      : promptFormat;
  return {
    digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}`,
    eosTokenId,
    contextLength,
    promptFormat: format,
    async encodePrompt(prompt) {
      const ids: number[] = [];
      for (const part of renderPrompt(format, prompt)) {
        for (const id of 'ids' in part ? part.ids : await encodeIds(part.text)) ids.push(id);
      }
      return ids;
    },
    async encodeResponse(response, limit = Number.POSITIVE_INFINITY) {
      const encoding = await encode(response);
      const tokenCount = encoding.getLength();
      // up to three more tokens may share the last character
      if (tokenCount > limit) encoding.truncate(limit + 3, 0, 'right');
      const { offsets, covers } = tileOffsets(response, encoding.getOffsets());
      return {
        tokenCount,
        tokenIds: encoding.getIds().slice(0, limit),
        offsets: offsets.slice(0, limit),
        covers: covers.slice(0, limit),
      };
    },
  };
}

interface TokenizerJson {
  added_tokens?: { id: number; content: string; special: boolean }[];
  model: { vocab: Record<string, number> | [string, number][] };
}

/**
 * Opens a tokenizer.json so that no text becomes a control token: the special ones are taken out where the vocabulary
 * has them anyway, and get a name that no text contains (NUL) where they count in the numbering of those after them.
 */
function openTokenizer(json: string): Tokenizer {
  try {
    const { added_tokens = [], ...rest } = JSON.parse(json) as TokenizerJson;
    const { vocab } = rest.model;
    const known = new Set(Array.isArray(vocab) ? vocab.map(([token]) => token) : Object.keys(vocab));
    const kept = added_tokens
      .filter(({ special, content }) => !special || !known.has(content))
      .map((token) => (token.special ? { ...token, content: `\0${token.id}` } : token));
    const tokenizer = Tokenizer.fromString(
      JSON.stringify({ ...rest, added_tokens: kept, truncation: null, padding: null }),
    );
    const moved = kept.find(({ content, id }) => tokenizer.tokenToId(content) !== id);
    if (moved)
      throw new Error(`the added token ${JSON.stringify(moved.content)} does not get its id ${moved.id}`);
    return tokenizer;
  } catch (error) {
    throw new ModelRefused(`tokenizer.json cannot be loaded: ${(error as Error).message}`);
  }
}
