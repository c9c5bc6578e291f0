// AlpacaEval's annotations, in and out: one JSON object for each prompt, in which `output_1` is the baseline's response,
// `output_2` the model's, and `preference` 1 for the baseline, 2 for the model, between them for a share, 1.5 or 0 for a tie.
import { createHash } from 'node:crypto';
import type { Judgement } from './judgements.ts';

export interface AlpacaEvalAnnotation {
  instruction: string;
  output_1: string;
  output_2: string;
  generator_1?: string | null;
  generator_2?: string | null;
  annotator?: string | null;
  /** null: the annotator failed */
  preference?: number | null;
}

/** What an annotation says beside the judgement. */
export interface Responses {
  prompt: string;
  response_candidate: string;
  response_baseline: string;
  /** Name of the baseline. */
  baseline?: string;
}

/** Name of an item in every file: a digest, as prompts are longer than ids may be. */
export const itemOfInstruction = (instruction: string): string =>
  `sha256:${createHash('sha256').update(instruction).digest('hex')}`;

/** An outcome that is out of range stays so, to be dropped and counted. Lengths are in code points, as Python's. */
export function fromAlpacaEval(annotation: AlpacaEvalAnnotation): Judgement & Responses {
  const { instruction, output_1, output_2, generator_1, generator_2, annotator, preference } = annotation;
  return {
    item_id: itemOfInstruction(instruction),
    outcome: outcomeOf(preference ?? null),
    length_candidate: codePoints(output_2),
    length_baseline: codePoints(output_1),
    prompt: instruction,
    response_candidate: output_2,
    response_baseline: output_1,
    ...(generator_2 == null ? {} : { candidate: generator_2 }),
    ...(generator_1 == null ? {} : { baseline: generator_1 }),
    ...(annotator == null ? {} : { judge: annotator }),
  };
}

const outcomeOf = (preference: number | null): number | null =>
  preference === null ? null : preference === 0 ? 0.5 : preference - 1;

function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** An outcome outside 0..1 becomes null, as AlpacaEval knows no such preference. */
export function toAlpacaEval(judged: Judgement & Responses): AlpacaEvalAnnotation {
  const { outcome } = judged;
  return {
    instruction: judged.prompt,
    output_1: judged.response_baseline,
    generator_1: judged.baseline ?? null,
    output_2: judged.response_candidate,
    generator_2: judged.candidate ?? null,
    annotator: judged.judge ?? null,
    preference: outcome !== null && outcome >= 0 && outcome <= 1 ? outcome + 1 : null,
  };
}
