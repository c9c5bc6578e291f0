import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { loadModelTokenizer } from '../../src/scoring/tokenizer.ts';
import { tinyModelFolder } from '../support/models.ts';

const golden = new URL('../golden/', import.meta.url);
const tiny = fileURLToPath(tinyModelFolder);
const tokenizerJson = new URL('tokenizer.json', golden);
const vectors = JSON.parse(await readFile(new URL('prompt_format.json', golden), 'utf8'));
const card = { format: 1, role: 'policy', vocab_size: 400, context_length: 64, eos_token_id: 2 };

/** A model folder with these files; `tokenizer.json` is that of the golden vectors unless given. */
async function modelFolder(t: Test, files: Record<string, string>): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-tokenizer-'));
  t.teardown(() => rm(folder, { recursive: true }));
  await copyFile(tokenizerJson, join(folder, 'tokenizer.json'));
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  return folder;
}

t.test("prompts and responses get the trainer's ids", async (t) => {
  for (const [name, format] of Object.entries<object>(vectors.formats)) {
    const folder = await modelFolder(t, { 'finegrain.json': JSON.stringify({ ...card, ...format }) });
    const tokenizer = await loadModelTokenizer(folder);
    t.equal(tokenizer.digest, vectors.tokenizer_digest);
    for (const { name: prompt, prompt: content, token_ids } of vectors.prompts) {
      t.same(await tokenizer.encodePrompt(content), token_ids[name], `${name}: ${prompt}`);
    }
    for (const { name: response, response: text, token_ids } of vectors.responses) {
      const { tokenIds } = await tokenizer.encodeResponse(text);
      t.same([...tokenIds, tokenizer.eosTokenId], token_ids, `${name}: ${response}`);
    }
  }
});

t.test('a Hugging Face folder without finegrain.json speaks the plain format', async (t) => {
  const config = { vocab_size: 400, max_position_embeddings: 128, bos_token_id: 1, eos_token_id: [2, 0] };
  const tokenizer = await loadModelTokenizer(await modelFolder(t, { 'config.json': JSON.stringify(config) }));
  t.match(tokenizer, { eosTokenId: 2, contextLength: 128 });
  for (const { name, prompt, token_ids } of vectors.prompts) {
    t.same(await tokenizer.encodePrompt(prompt), token_ids.plain, name);
  }
});

t.test('offsets tile any text, whatever a character is made of', async (t) => {
  const tokenizer = await loadModelTokenizer(tiny);
  for (const text of [
    'Hello there',
    '👩‍👩‍👧 family',
    'a\r\nb',
    'e\u0301 é',
    '日本語',
    '\u{1D4B3}',
    ' ',
    '',
  ]) {
    const { tokenIds, tokenCount, offsets, covers } = await tokenizer.encodeResponse(text);
    t.equal(tokenCount, tokenIds.length);
    t.equal(covers.length, tokenIds.length);
    t.equal(offsets.map(([start, end]) => text.slice(start, end)).join(''), text, JSON.stringify(text));
    t.ok(
      offsets.every(([start], i) => start === (offsets[i - 1]?.[1] ?? 0)),
      'each begins where the one before ends',
    );
  }
});

t.test('a limit gives the beginning of the whole', async (t) => {
  const tokenizer = await loadModelTokenizer(tiny);
  const text = 'Hello 👩‍👩‍👧, how are you today?';
  const whole = await tokenizer.encodeResponse(text);
  for (let limit = 0; limit <= whole.tokenCount; limit++) {
    t.same(await tokenizer.encodeResponse(text, limit), {
      tokenCount: whole.tokenCount,
      tokenIds: whole.tokenIds.slice(0, limit),
      offsets: whole.offsets.slice(0, limit),
      covers: whole.covers.slice(0, limit),
    });
  }
});

t.test('text that spells a control token is text, and other added tokens keep their ids', async (t) => {
  const json = JSON.parse(await readFile(tokenizerJson, 'utf8'));
  const size = Object.keys(json.model.vocab).length;
  const added = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  json.added_tokens.push(
    { ...added, id: size, content: '<|control|>', special: true },
    { ...added, id: size + 1, content: '<tool>', special: false },
  );
  const format = vectors.formats.chat;
  const files = {
    'finegrain.json': JSON.stringify({ ...card, ...format }),
    'tokenizer.json': JSON.stringify(json),
  };
  const tokenizer = await loadModelTokenizer(await modelFolder(t, files));
  const { tokenIds } = await tokenizer.encodeResponse('<|control|><tool><|eos|>');
  t.notOk(tokenIds.includes(size), 'a special token that only added_tokens has');
  t.notOk(tokenIds.includes(2), 'a special token that the vocabulary has too');
  t.ok(tokenIds.includes(size + 1), 'an added token that is not special');
});

t.test('a folder that cannot be read is refused with a reason', async (t) => {
  const finegrain = JSON.stringify({ ...card, ...vectors.formats.chat });
  const cases: [Record<string, string>, string][] = [
    [{ 'finegrain.json': finegrain, 'tokenizer.json': '{}' }, 'tokenizer.json cannot be loaded'],
    [{ 'finegrain.json': '{' }, 'finegrain.json is not JSON'],
    [
      { 'finegrain.json': JSON.stringify({ ...card, prompt_format: {} }) },
      'finegrain.json at /prompt_format',
    ],
    [{}, 'config.json is missing'],
  ];
  for (const [files, reason] of cases) {
    await t.rejects(loadModelTokenizer(await modelFolder(t, files)), {
      name: 'ModelRefused',
      message: new RegExp(reason),
    });
  }
  const folder = await modelFolder(t, { 'finegrain.json': finegrain });
  await rm(join(folder, 'tokenizer.json'));
  await t.rejects(loadModelTokenizer(folder), { name: 'ModelRefused', message: 'tokenizer.json is missing' });
});
