// Token-labelled rows of a snapshot, as the trainer reads them and as the export gives them: per edit both versions with
// their labels, per decided pair both responses.
import { alignTexts } from '../domain/alignment.ts';
import { type Hunk, type LabelRule, labelTokens, type TokenizedText } from '../domain/token-labels.ts';
import { type Votes, voteCount } from '../domain/votes.ts';
import type { ModelTokenizer } from '../scoring/engine.ts';
import type { PairInput } from './pair-rows.ts';
import type { SnapshotRow, Split } from './snapshot-content.ts';

interface LabelledText {
  text: string;
  token_ids: number[];
  labels: (0 | 1)[];
  changed: (0 | 1)[];
}

/** One edit. The last token of each version is EOS. `usable: false`: a rewrite, whose tokens carry no label. */
export interface EditLabelRow {
  type: 'edit';
  id: string;
  /** that was edited: several edits of one pair share it */
  pair: string;
  /** of a snapshot's rows */
  split: Split | undefined;
  prompt: PairInput['prompt'];
  prompt_token_ids: number[];
  original: LabelledText;
  edited: LabelledText;
  hunks: Hunk[];
  usable: boolean;
}

/** One pair whose preference is known. */
export interface PairLabelRow {
  type: 'pair';
  id: string;
  /** of a snapshot's rows */
  split: Split | undefined;
  prompt: PairInput['prompt'];
  prompt_token_ids: number[];
  preferred: { text: string; token_ids: number[] };
  other: { text: string; token_ids: number[] };
  /** how many annotators said so, where they are known */
  votes?: { preferred: number; other: number; tie: number };
}

export type LabelRow = EditLabelRow | PairLabelRow;

/** A pair with the edits that count, of a snapshot or of a dataset. */
export interface LabelSource
  extends Pick<SnapshotRow, 'key' | 'prompt' | 'response_a' | 'response_b' | 'preference' | 'minimality'> {
  split?: Split;
  votes?: Votes;
  edits: { side: 'a' | 'b'; edited_response: string }[];
}

/** @param rule which tokens of an insertion are labelled (ALGORITHM 1) */
export async function* labelRows(
  rows: AsyncIterable<LabelSource>,
  tokenizer: ModelTokenizer,
  rule: LabelRule,
): AsyncGenerator<LabelRow> {
  const encode = async (text: string): Promise<TokenizedText> => {
    const { tokenIds, covers } = await tokenizer.encodeResponse(text);
    return {
      text,
      token_ids: [...tokenIds, tokenizer.eosTokenId],
      covers: [...covers, [text.length, text.length]],
    };
  };
  for await (const row of rows) {
    const { key, split, prompt, response_a, response_b, preference, votes, edits, minimality } = row;
    const prompt_token_ids = await tokenizer.encodePrompt(prompt);
    const responses = { a: await encode(response_a), b: await encode(response_b) };
    for (const [index, { side, edited_response }] of edits.entries()) {
      const alignment = alignTexts(responses[side].text, edited_response, minimality);
      const { original, edited, hunks, usable } = labelTokens(
        alignment,
        responses[side],
        await encode(edited_response),
        rule,
      );
      yield {
        type: 'edit',
        id: `${key}/${index}`,
        pair: key,
        split,
        prompt,
        prompt_token_ids,
        original,
        edited,
        hunks,
        usable,
      };
    }
    if (preference !== null) {
      const pick = ({ text, token_ids }: TokenizedText) => ({ text, token_ids });
      const [preferred, other] = preference === 'a' ? [responses.a, responses.b] : [responses.b, responses.a];
      yield {
        type: 'pair',
        id: key,
        split,
        prompt,
        prompt_token_ids,
        preferred: pick(preferred),
        other: pick(other),
        ...(votes && voteCount(votes) > 0 ? { votes: votesFor(preference, votes) } : {}),
      };
    }
  }
}

function votesFor(preference: 'a' | 'b', { a, b, tie }: Votes): NonNullable<PairLabelRow['votes']> {
  return preference === 'a' ? { preferred: a, other: b, tie } : { preferred: b, other: a, tie };
}
