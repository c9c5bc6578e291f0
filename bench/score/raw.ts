// Scores sequences of token ids one after the other, without a server, a tokenizer, or a queue. Its parent names the graph
// first, then each time the sequences.
import { openRewardGraph, type RewardGraph, type RewardGraphFile } from '../../src/scoring/reward-graph.ts';

let graph: RewardGraph | null = null;

process.on('message', async (message: RewardGraphFile | { ids: number[]; prompt: number }[]) => {
  if (Array.isArray(message))
    for (const { ids, prompt } of message) await graph!.score(Int32Array.from(ids), prompt, false);
  else graph = await openRewardGraph(message);
  process.send!('done');
});
process.on('disconnect', () => void graph?.release());
