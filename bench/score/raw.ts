// The limit: the same graph and the same tokens by onnxruntime-node in one process, without a server, a tokenizer, a
// queue, or prefixes that are kept. Reads one JSON line: [file, sequences of token ids]; answers with CPU seconds.
//
//   node raw.js < LINE
import { openRewardGraph, type RewardGraphFile } from '../../src/scoring/reward-graph.ts';

const chunks: Buffer[] = [];
for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
const [file, sequences] = JSON.parse(Buffer.concat(chunks).toString()) as [
  RewardGraphFile,
  { ids: number[]; prompt: number }[],
];
const graph = await openRewardGraph(file);
const inputs = sequences.map(({ ids, prompt }) => ({ ids: Int32Array.from(ids), prompt }));
await graph.score(inputs[0]!.ids, inputs[0]!.prompt, false);
const [cpu, started] = [process.cpuUsage(), performance.now()];
for (const { ids, prompt } of inputs) await graph.score(ids, prompt, false);
const used = process.cpuUsage(cpu);
console.log(
  JSON.stringify({ cpu: (used.user + used.system) / 1e6, wall: (performance.now() - started) / 1000 }),
);
await graph.release();
