// Data for the demo's report as a run of the demo might give it: texts of the demo world, with the rewards that a good token
// reward model would give them. To look at the page: node dist/test/examples/report-fixture.js > report.html
import { pathToFileURL } from 'node:url';
import type { CurvePoint, EditExample, Estimate, ReportData } from '../../examples/demo/report/data.ts';
import { renderReport } from '../../examples/demo/report.ts';
import { editRow, pairRows } from '../../examples/world/data.ts';
import { createRandom } from '../../examples/world/random.ts';
import { assess, score } from '../../examples/world/scorer.ts';
import { alignTexts } from '../../src/domain/alignment.ts';
import { segmentRewards } from '../../src/domain/segment-rewards.ts';
import type { Span } from '../../src/domain/text.ts';

const seed = 7;

/** A 95 % interval as it is for a share of n. */
export function estimate(value: number, n: number): Estimate {
  const margin = 1.96 * Math.sqrt((value * (1 - value)) / n);
  return { value, low: value - margin, high: value + margin, n };
}

/** Tokens and rewards: low on defects and on what stands where something is missing; EOS is the last token. */
function rewarded(prompt: string, text: string) {
  const random = createRandom(`${seed}/rewards/${text}`);
  const { defects } = assess(prompt, text);
  const covers = [...text.matchAll(/ ?\w{1,6}|[^\w]/g)].map(
    ({ 0: piece, index }): Span => [index, index + piece.length],
  );
  covers.push([text.length, text.length]);
  const rewards = covers.map(([start, end]) => {
    const bad = defects.some((defect) => defect.start <= Math.max(start, end - 1) && defect.end > start);
    const missing = defects.some((defect) => defect.start === defect.end && defect.start === start);
    return -(bad ? 1.2 : missing ? 0.7 : 0.01) * (0.6 + random.next());
  });
  return { text, covers, rewards };
}

function scored(label: string, prompt: string, text: string) {
  const { covers, rewards } = rewarded(prompt, text);
  const reward = rewards.slice(0, -1).reduce((sum, value) => sum + value, 0);
  const tokens = covers.slice(0, -1).map(([start, end]) => text.slice(start, end));
  return { label, tokens, rewards: rewards.slice(0, -1), reward };
}

function compared(prompt: string, original: string, edited: string): EditExample {
  const sides = [rewarded(prompt, original), rewarded(prompt, edited)] as const;
  const parts = segmentRewards(alignTexts(original, edited).segments, ...sides);
  const [original_reward, edited_reward] = sides.map(({ rewards }) =>
    rewards.reduce((sum, reward) => sum + reward, 0),
  ) as [number, number];
  const difference = edited_reward - original_reward;
  return { prompt, original, edited, comparison: { ...parts, original_reward, edited_reward, difference } };
}

function curve(rates: number[], finalKl: number): CurvePoint[] {
  return rates.map((rate, step) => ({
    samples: step * 512,
    kl: 3.2 + (finalKl - 3.2) * (step / (rates.length - 1)) ** 0.8,
    win_rate: estimate(rate, 150),
  }));
}

export function reportFixture(): ReportData {
  const pairs = pairRows(seed, 40);
  const edits = pairs.flatMap((pair): EditExample[] => {
    const edit = editRow(seed, pair);
    const original = edit?.side === 'a' ? pair.response_a : pair.response_b;
    return edit ? [compared(pair.prompt, original, edit.edited_response)] : [];
  });
  const start = 'starting policy';
  const [sft, sequence, fine] = ['SFT on edits', 'sequence PPO', 'fine-grained PPO'] as const;
  return {
    headline: { candidate: fine, baseline: sequence },
    judge:
      'The judge is the hidden scorer of the demo world, which annotators see through noise and training never sees.',
    arms: [
      {
        name: start,
        description: 'fine-tuned on noisy demonstrations',
        win_rate_over_start: null,
        win_rate_over_writers: estimate(0.083, 300),
        kl: 0,
        mean_length: 43.1,
        samples: 0,
      },
      {
        name: sft,
        description: 'start, fine-tuned on the edited responses',
        win_rate_over_start: estimate(0.807, 300),
        win_rate_over_writers: estimate(0.253, 300),
        kl: 3.2,
        mean_length: 43.9,
        samples: 0,
      },
      {
        name: sequence,
        description: 'from SFT, one reward at the end of each response',
        win_rate_over_start: estimate(0.771, 300),
        win_rate_over_writers: estimate(0.186, 300),
        kl: 7.1,
        mean_length: 42.7,
        samples: 2560,
      },
      {
        name: fine,
        description: 'from SFT, each token its own reward',
        win_rate_over_start: estimate(0.882, 300),
        win_rate_over_writers: estimate(0.323, 300),
        kl: 4.6,
        mean_length: 43.4,
        samples: 2560,
      },
    ],
    head_to_head: [
      { candidate: sft, baseline: start, win_rate: estimate(0.807, 300) },
      { candidate: sequence, baseline: start, win_rate: estimate(0.771, 300) },
      { candidate: fine, baseline: start, win_rate: estimate(0.882, 300) },
      { candidate: sequence, baseline: sft, win_rate: estimate(0.452, 300) },
      { candidate: fine, baseline: sft, win_rate: estimate(0.541, 300) },
      { candidate: fine, baseline: sequence, win_rate: estimate(0.633, 300) },
    ],
    learning_curves: [
      { arm: sequence, points: curve([0.807, 0.815, 0.79, 0.8, 0.775, 0.771], 7.1) },
      { arm: fine, points: curve([0.807, 0.838, 0.861, 0.87, 0.885, 0.882], 4.6) },
    ],
    heat_map: pairs.slice(0, 3).map(({ prompt, response_a, response_b }) => {
      const [better, worse] = [response_a, response_b].toSorted(
        (a, b) => score(prompt, b) - score(prompt, a),
      );
      return { prompt, responses: [scored('better', prompt, better!), scored('worse', prompt, worse!)] };
    }),
    edits: edits
      .toSorted((a, b) => b.comparison.segments.length - a.comparison.segments.length)
      .slice(12, 14),
    reward_models: [
      {
        name: 'token rewards',
        loss: 'survival',
        edit_accuracy: estimate(0.956, 574),
        pair_accuracy: estimate(0.838, 599),
        bad_token_auc: { value: 0.949, low: 0.944, high: 0.955, n: 574 },
      },
      {
        name: 'sequence reward',
        loss: 'seq_edits',
        edit_accuracy: estimate(0.915, 574),
        pair_accuracy: estimate(0.741, 599),
        bad_token_auc: null,
      },
    ],
    gate: [
      { metric: 'pair_accuracy', value: 0.838, minimum: 0.7, passed: true },
      { metric: 'bad_token_auc', value: 0.949, minimum: 0.9, passed: true },
    ],
    reliability: [
      'The labels of pairs are the majority of five noisy votes: they agree with the hidden score in 91 %, so a perfect model would reach a pair_accuracy of 0.91.',
    ],
    made: {
      date: new Date('2026-11-23T21:14:05Z'),
      seed: 1,
      recipe: 'full',
      leaves_out: '',
      sizes: { pairs: 4000, edits: 3841, demonstrations: 6000, 'evaluation prompts': 300 },
      hyperparameters: {
        'Starting policy (sft)': { epochs: 4, batch_size: 16, learning_rate: 0.003, warmup_steps: 100 },
        'Token reward model (reward)': { loss: 'survival', epochs: 3, batch_size: 8, learning_rate: 0.0015 },
        'Fine-grained PPO (ppo)': {
          steps: 40,
          batch_size: 64,
          learning_rate: 0.0005,
          beta: 0.1,
          mu: 'batch',
        },
      },
      stages: [
        { name: 'Start the service', seconds: 5.2 },
        { name: 'Import pairs', seconds: 1.9 },
        { name: 'Edit', seconds: 11.4 },
        { name: 'Snapshot', seconds: 0.4 },
        { name: 'Starting policy', seconds: 49.7 },
        { name: 'SFT on the edits', seconds: 21.3 },
        { name: 'Reward models', seconds: 82.6 },
        { name: 'PPO, two arms', seconds: 108.2 },
        { name: 'Responses and judging', seconds: 41.8 },
      ],
      environment: {
        operating_system: 'Debian GNU/Linux 12 (bookworm), Linux 6.1.0-18-amd64 x64',
        cpu: 'AMD EPYC 9R14',
        cores: 2,
        memory_gib: 16,
        node: '20.20.2',
        python: '3.11.7',
        torch: '2.13.0+cpu',
        git: { commit: '3a7e63ed0b1c4f7a9e2d5c8b6a1f0e3d7c9b2a45', dirty: true },
      },
      digests: {
        snapshot: `sha256:${'2a06ce2f1d7c40b8'.repeat(4)}`,
        'token reward model': `sha256:${'0ecc8c698c7a388b'.repeat(4)}`,
        'fine-grained PPO': `sha256:${'a72ab08fb220fbb1'.repeat(4)}`,
      },
    },
  };
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href)
  process.stdout.write(await renderReport(reportFixture()));
