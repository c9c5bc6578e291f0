// Scores sequences of token ids one after the other, without a server, a tokenizer, a queue, or prompts that are kept.
// Its parent says first which, then each time when.
import { openRewardGraph, type RewardGraph, type RewardGraphFile } from '../../src/scoring/reward-graph.ts';

interface Work {
  graph: RewardGraphFile;
  sequences: { ids: number[]; prompt: number }[];
}

let graph: RewardGraph | null = null;
let inputs: { ids: Int32Array; prompt: number }[] = [];

process.on('message', async (message: Work | 'score') => {
  if (message === 'score') {
    // as one text, since a prompt that comes again would be kept
    for (const { ids } of inputs) await graph!.score(ids, 0, false);
  } else {
    graph = await openRewardGraph(message.graph);
    inputs = message.sequences.map(({ ids, prompt }) => ({ ids: Int32Array.from(ids), prompt }));
    await graph.score(inputs[0]!.ids, 0, false);
  }
  process.send!('done');
});
process.on('disconnect', () => void graph?.release());
