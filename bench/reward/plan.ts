// The experiments of bench:reward: one question each, and the runs that answer it.
import type { Condition } from './world.ts';

export interface Run {
  question: string;
  name: string;
  loss: string;
  condition: Condition;
  hyperparameters: Record<string, number | string>;
}

/** Annotators of whom such a share say the opposite, overlook a defect, change something needlessly, make it worse. */
const noisy = (share: number): Pick<Condition, 'rates' | 'flipRate'> => ({
  rates: { fix: 1 - share, gratuitous: share, harm: share },
  flipRate: share,
});

const usual: Condition = {
  editors: [1],
  edits: 1000,
  ...noisy(0.1),
  voters: 5,
  rewrites: 0,
  overEditing: false,
};

const training = { epochs: 4, batch_size: 8 };
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
const losses = ['survival', 'bt_hunk', 'seq_edits'];

const editQuality = [
  ...[0.1, 0.25, 0.4, 0].flatMap((share) =>
    losses.map((loss) => run('edit quality', `noise ${percent(share)}`, loss, noisy(share))),
  ),
  ...losses.map((loss) => run('edit quality', 'noise 10 %, over-editing', loss, { overEditing: true })),
];

const noCommonText = [0.5, 0.2].flatMap((rewrites) => [
  run('no common text', `rewrites ${percent(rewrites)}`, 'survival', { rewrites }),
  run('no common text', `rewrites ${percent(rewrites)}`, 'seq_edits', { rewrites }),
  run('no common text', `rewrites ${percent(rewrites)}, left out`, 'seq_edits', {
    edits: Math.round(usual.edits * (1 - rewrites)),
  }),
]);

const ambiguousPreferences = [0.6, 0, 0.3].flatMap((ambiguous) => {
  const name = `${percent(ambiguous)} ambiguous`;
  const ask = (what: string, loss: string, condition = {}, hyperparameters = {}) =>
    run('ambiguous preferences', what, loss, { ambiguous, ...condition }, hyperparameters);
  return [
    ask(name, 'seq_pairs'),
    ask(`${name}, shares of votes`, 'seq_pairs', {}, { preference_labels: 'votes' }),
    ask(`${name}, one voter`, 'seq_pairs', { voters: 1 }),
    ask(name, 'survival'),
    ask(name, 'seq_edits'),
  ];
});

const severalEditors = [
  ...[0.4, 0.1].flatMap((noise) =>
    [2, 3].map((editors) =>
      run('several editors', `noise ${percent(noise)}, ${editors} editors a pair`, 'survival', {
        ...noisy(noise),
        editors: [editors],
      }),
    ),
  ),
  ...['edit', 'pair'].map((weighting) =>
    run(
      'several editors',
      `one or six editors a pair, weighted by ${weighting}`,
      'survival',
      { editors: [1, 1, 1, 1, 6] },
      { pair_weighting: weighting },
    ),
  ),
];

const preferredResponses = losses.map((loss) =>
  run('preferred responses', 'weight 1', loss, {}, { preferred_responses: 1 }),
);

const heads = [
  run('heads', '3 heads', 'survival', {}, { heads: 3 }),
  run('heads', '3 heads, penalty 1', 'survival', {}, { heads: 3, uncertainty_penalty: 1 }),
];

export const plan: Run[] = [
  ...editQuality,
  ...noCommonText,
  ...ambiguousPreferences,
  ...severalEditors,
  ...preferredResponses,
  ...heads,
];
