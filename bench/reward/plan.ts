// The experiments of bench:reward: one question each, and the runs that answer it.
import { editorRates } from '../../examples/world/annotators.ts';
import type { Condition } from './world.ts';

export interface Run {
  question: string;
  name: string;
  loss: string;
  condition: Condition;
  hyperparameters: Record<string, number | string>;
}

const usual: Condition = {
  editors: [1],
  edits: 2000,
  rates: editorRates,
  flipRate: 0.1,
  voters: 5,
  rewrites: 0,
  overEditing: false,
};

/** Annotators of whom such a share say the opposite, overlook a defect, change something needlessly, make it worse. */
const noisy = (share: number): Partial<Condition> => ({
  rates: { fix: 1 - share, gratuitous: share, harm: share },
  flipRate: share,
});

const training = { epochs: 6, batch_size: 8 };
const learningRate = (loss: string): number => (loss.startsWith('seq_') ? 1.5e-3 : 3e-3);

function run(
  question: string,
  name: string,
  loss: string,
  condition: Partial<Condition> = {},
  hyperparameters: Run['hyperparameters'] = {},
): Run {
  return {
    question,
    name,
    loss,
    condition: { ...usual, ...condition },
    hyperparameters: { ...training, learning_rate: learningRate(loss), ...hyperparameters },
  };
}

const percent = (share: number): string => `${Math.round(100 * share)} %`;

export const plan: Run[] = [
  ...[0, 0.1, 0.25, 0.4].flatMap((share) =>
    ['survival', 'bt_hunk', 'seq_edits'].map((loss) =>
      run('edit quality', `noise ${percent(share)}`, loss, noisy(share)),
    ),
  ),
  ...['survival', 'bt_hunk', 'seq_edits'].flatMap((loss) => [
    run('edit quality', 'usual', loss),
    run('edit quality', 'over-editing', loss, { overEditing: true }),
  ]),
  ...[0.2, 0.5].flatMap((rewrites) => [
    run('no common text', `rewrites ${percent(rewrites)}`, 'survival', { rewrites }),
    run('no common text', `rewrites ${percent(rewrites)}`, 'seq_edits', { rewrites }),
    run('no common text', `rewrites ${percent(rewrites)} left out`, 'seq_edits', {
      edits: Math.round(usual.edits * (1 - rewrites)),
    }),
  ]),
  ...[0, 0.3, 0.6].flatMap((ambiguous) => [
    ...['survival', 'bt_hunk', 'seq_edits', 'seq_pairs'].map((loss) =>
      run('ambiguous preferences', `${percent(ambiguous)} ambiguous`, loss, { ambiguous }),
    ),
    run('ambiguous preferences', `${percent(ambiguous)} ambiguous, one voter`, 'seq_pairs', {
      ambiguous,
      voters: 1,
    }),
    run(
      'ambiguous preferences',
      `${percent(ambiguous)} ambiguous, shares of votes`,
      'seq_pairs',
      { ambiguous },
      { preference_labels: 'votes' },
    ),
  ]),
  ...[2, 3].flatMap((editors) =>
    [{}, noisy(0.4)].map((noise, index) =>
      run('several editors', `${editors} editors a pair${index ? ', noise 40 %' : ''}`, 'survival', {
        ...noise,
        editors: [editors],
      }),
    ),
  ),
  ...['edit', 'pair'].map((weighting) =>
    run(
      'several editors',
      `1 or 6 editors a pair, by ${weighting}`,
      'survival',
      { editors: [1, 1, 1, 1, 6] },
      { pair_weighting: weighting },
    ),
  ),
  run('preferred responses', 'weight 1', 'survival', {}, { preferred_responses: 1 }),
  run('preferred responses', 'weight 0.3', 'survival', {}, { preferred_responses: 0.3 }),
  run('preferred responses', 'weight 1', 'bt_hunk', {}, { preferred_responses: 1 }),
  run('preferred responses', 'weight 1', 'seq_edits', {}, { preferred_responses: 1 }),
  run('heads', '3 heads', 'survival', {}, { heads: 3 }),
  run('heads', '3 heads, penalty 1', 'survival', {}, { heads: 3, uncertainty_penalty: 1 }),
  run('heads', '3 heads', 'seq_edits', {}, { heads: 3 }),
];
