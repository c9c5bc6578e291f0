// What the reported draws run, set as the tuning draw said, in tiers: a draw has a tier as a whole, and a sitting that ends
// early has the comparison that matters most on as many draws as it could.
import {
  bestOfRun,
  dpoRun,
  inTwoRounds,
  type Pipeline,
  policyRun,
  ppoRun,
  type Start,
  sftRun,
} from './arms.ts';
import { bestOf, dpoSettings, type Loss, longSft, ppoVariants } from './plan.ts';

export interface Planned {
  arm: string;
  settings: object;
  run: Pipeline;
}

const losses: Loss[] = ['survival', 'seq_edits'];
const nameOf = { survival: 'fine-grained', seq_edits: 'sequence' } as const satisfies Record<Loss, string>;

const startNames = { start: '', edits: 'SFT, ', dpo: 'SFT, DPO, ' } as const satisfies Record<Start, string>;

const ppo = (loss: Loss, from: Start, beta: number): Planned => ({
  arm: `${startNames[from]}${nameOf[loss]} PPO`,
  settings: { beta },
  run: ppoRun(from, loss, { beta }),
});

const variant = (loss: Loss, name: keyof typeof ppoVariants, beta = 0.1, from: Start = 'edits'): Planned => {
  const settings = { beta, ...ppoVariants[name] };
  const method = name === 'leave-one-out' ? name : `PPO, ${name}`;
  return { arm: `${startNames[from]}${nameOf[loss]} ${method}`, settings, run: ppoRun(from, loss, settings) };
};

const dpo = (from: 'start' | 'edits'): Planned[] =>
  dpoSettings[from].map((settings) => ({
    arm: `${startNames[from]}DPO`,
    settings,
    run: dpoRun(from, settings),
  }));

const twoRounds = ({ arm, settings, run }: Planned): Planned => ({
  arm: `two rounds: ${arm}`,
  settings,
  run: inTwoRounds(run),
});

const sft: Planned = { arm: 'SFT on edits', settings: {}, run: policyRun('edits') };

export const tiers: Planned[][] = [
  [
    { arm: 'starting policy', settings: {}, run: policyRun('start') },
    sft,
    ...losses.map((loss) => ppo(loss, 'edits', 0.1)),
    dpo('edits')[0]!,
    ...losses.map((loss) => ppo(loss, 'dpo', 0.1)),
  ],
  [
    variant('seq_edits', 'leave-one-out'),
    ...losses.map(
      (loss): Planned => ({
        arm: `SFT, best of n by ${nameOf[loss]} rewards`,
        settings: { n: bestOf },
        run: bestOfRun(loss),
      }),
    ),
    ...dpo('edits').slice(1),
    {
      arm: 'SFT, DPO on the preferences',
      settings: dpoSettings.edits[0],
      run: dpoRun('edits', dpoSettings.edits[0], 'preferences'),
    },
    { arm: 'SFT on edits, twice as long', settings: longSft, run: sftRun(longSft) },
    ...dpo('start'),
  ],
  losses.map((loss) => ppo(loss, 'start', 0.1)),
  [0.05, 0.2].flatMap((beta) => losses.map((loss) => ppo(loss, 'edits', beta))),
  [twoRounds(sft), ...losses.map((loss) => twoRounds(ppo(loss, 'edits', 0.1)))],
  [variant('survival', 'leave-one-out'), variant('survival', 'length-neutral zero')],
  [
    ...losses.map((loss) => variant(loss, '160 steps')),
    variant('survival', '160 steps', 0.02),
    variant('seq_edits', '160 steps', 0.2),
  ],
  [variant('survival', '160 steps', 0.02, 'dpo'), variant('seq_edits', '160 steps', 0.2, 'dpo')],
];

/** In another domain, and with a larger policy. */
export const elsewhere: Planned[] = [
  { arm: 'starting policy', settings: {}, run: policyRun('start') },
  sft,
  ...losses.map((loss) => ppo(loss, 'edits', 0.1)),
  dpo('edits')[0]!,
  ...losses.map((loss) => ppo(loss, 'dpo', 0.1)),
];
