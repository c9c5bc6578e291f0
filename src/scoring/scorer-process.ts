// A scorer process: owns one reward graph and scores one sequence at a time. It is a process of its own
// because a native crash or hang must cost no more than the sequence at hand. Its life is bound to the channel to its
// parent: it ends when told to or when the parent goes away, and never in the middle of a run, which would abort it.
// It imports little, so that it starts fast, and waits for its graph, so that it can be started ahead of it.
//
// node scorer-process.js, started by scorer.ts
import { openRewardGraph, type RewardGraph } from './reward-graph.ts';
import type { ScorerReply, ScorerRequest } from './scorer-protocol.ts';

let graph: RewardGraph | undefined;

// the parent may be gone by now, which 'disconnect' reports
const reply = (message: ScorerReply): void => void process.send?.(message, undefined, undefined, () => {});

async function load({ graph: file, provider }: ScorerRequest & { type: 'load' }): Promise<ScorerReply> {
  try {
    graph = await openRewardGraph(file, provider);
    return { type: 'ready' };
  } catch (error) {
    return { type: 'refused', reason: (error as Error).message };
  }
}

async function score({
  tokenIds,
  promptLength,
  sharesPrompt,
}: ScorerRequest & { type: 'score' }): Promise<ScorerReply> {
  try {
    const rewards = await graph!.score(tokenIds, promptLength, sharesPrompt);
    const wrong = rewards.findIndex((reward) => !Number.isFinite(reward));
    if (wrong === -1) return { type: 'scored', rewards };
    const detail = `The model gives ${rewards[wrong]} for token ${wrong} of the response.`;
    return { type: 'failed', code: 'not_finite', detail };
  } catch (error) {
    const detail = `The model cannot compute this: ${(error as Error).message}`;
    return { type: 'failed', code: 'model_failed', detail };
  }
}

// a signal to the whole process group (Ctrl-C) is the parent's to answer: it still drains what it has accepted
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});

let work = Promise.resolve();
const ended = new Promise<void>((resolve) => {
  process.once('disconnect', resolve);
  process.on('message', (request: ScorerRequest) => {
    if (request.type === 'close') resolve();
    else
      work = work.then(async () => reply(await (request.type === 'load' ? load(request) : score(request))));
  });
});
if (process.connected) await ended;
await work;
await graph?.release();
if (process.connected) process.disconnect();
