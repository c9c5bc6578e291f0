// What is kept of a draw, small enough to be committed, so that later sittings add draws and arms without computing the
// others anew: of each checkpoint the means, and of each prompt the hidden score, which is a whole number of defects.
import { judgeScores } from '../../examples/world/annotators.ts';
import {
  type Checkpoint,
  type Curve,
  type Judged,
  mean,
  type PromptSet,
  promptSets,
} from '../loop/frontier.ts';

interface StoredJudged {
  /** to the starting policy, nats a response */
  klToStart: number;
  length: number;
  /** defects of each response, a digit of base 36 each */
  defects: string;
}

interface StoredCheckpoint extends Record<PromptSet, StoredJudged> {
  step: number;
  samples: number;
}

/** What distinguishes a run from the others of its arm, and its checkpoints. */
export interface StoredRun {
  settings: object;
  checkpoints: StoredCheckpoint[];
}

export interface Run {
  settings: object;
  curve: Curve;
}

export interface StoredDraw {
  /** of settings.ts; absent: the plain one */
  scenario?: string;
  seed: number;
  edits: number;
  /** of the second round's edits, see rounds.ts */
  roundEdits?: number;
  /** what the judge compares with */
  opponents: Record<PromptSet, { start: string; careful: string }>;
  /** test figures */
  rewardModels: Record<string, Record<string, number | null>>;
  arms: Record<string, StoredRun[]>;
}

/** @param scores whole numbers, not above 0 */
export function packScores(scores: number[]): string {
  return scores
    .map((score) => {
      const defects = -score;
      if (!Number.isInteger(defects) || defects < 0) throw new Error(`${score} is no count of defects.`);
      return Math.min(defects, 35).toString(36);
    })
    .join('');
}

export const unpackScores = (packed: string): number[] =>
  Array.from(packed, (digit) => 0 - Number.parseInt(digit, 36));

const rounded = (values: number[]): number => Number(mean(values).toFixed(4));

export function storeRun({ settings, curve }: Run): StoredRun {
  const stored = ({ klToStart, length, score }: Judged): StoredJudged => ({
    klToStart: rounded(klToStart),
    length: rounded(length),
    defects: packScores(score),
  });
  return {
    settings,
    checkpoints: curve.map(({ step, samples, validation, test }) => ({
      step,
      samples,
      validation: stored(validation),
      test: stored(test),
    })),
  };
}

/** KL and length come back as their mean alone, and all KL is to the starting policy. */
export function readRun(draw: StoredDraw, { settings, checkpoints }: StoredRun): Run {
  const judged = (set: PromptSet, { klToStart, length, defects }: StoredJudged): Judged => {
    const score = unpackScores(defects);
    const over = (opponent: 'start' | 'careful'): number[] => {
      const others = unpackScores(draw.opponents[set][opponent]);
      return score.map((own, prompt) => judgeScores(own, others[prompt]!));
    };
    return {
      kl: [klToStart],
      klToStart: [klToStart],
      length: [length],
      score,
      overStart: over('start'),
      overCareful: over('careful'),
    };
  };
  const curve = checkpoints.map(({ step, samples, ...sets }): Checkpoint => {
    const [validation, test] = promptSets.map((set) => judged(set, sets[set]));
    return { step, samples, validation: validation!, test: test! };
  });
  return { settings, curve };
}
