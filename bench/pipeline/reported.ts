// What the reported draws run, set as the tuning draw said, in tiers: a sitting that ends early has the comparison that
// matters most on as many draws as it could.
import { type Pipeline, policyRun, ppoRun } from './arms.ts';
import type { Loss } from './plan.ts';

export interface Planned {
  arm: string;
  settings: object;
  run: Pipeline;
}

const losses: Loss[] = ['survival', 'seq_edits'];
export const nameOf = { survival: 'fine-grained', seq_edits: 'sequence' } as const satisfies Record<
  Loss,
  string
>;

const ppo = (loss: Loss, from: 'start' | 'edits', settings: object): Planned => ({
  arm: `${from === 'edits' ? 'SFT, ' : ''}${nameOf[loss]} PPO`,
  settings,
  run: ppoRun(from, loss, settings),
});

export const tiers: Planned[][] = [
  [
    { arm: 'starting policy', settings: {}, run: policyRun('start') },
    { arm: 'SFT on edits', settings: {}, run: policyRun('edits') },
    ...losses.map((loss) => ppo(loss, 'edits', { beta: 0.1 })),
  ],
];
