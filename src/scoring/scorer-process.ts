// A scorer process: owns one ONNX session and scores one sequence at a time on one thread. It is a process of its own
// because a native crash or hang must cost no more than the sequence at hand. Its life is bound to the channel to its
// parent: it ends when told to or when the parent goes away, and never in the middle of a run, which would abort it.
//
// node scorer-process.ts MODEL_FOLDER, started by scorer.ts
import { join } from 'node:path';
import ort from 'onnxruntime-node';
import { checkGoldenRewards } from './golden.ts';
import { ModelRefused } from './model-json.ts';
import { readModelManifest } from './model-manifest.ts';
import type { ScorerReply, ScorerRequest } from './scorer-protocol.ts';

interface RewardGraph {
  /** Rewards of the tokens after the first `promptLength`. */
  score(tokenIds: ArrayLike<number>, promptLength: number): Promise<Float32Array>;
  release(): Promise<void>;
}

/** @throws ModelRefused when the folder holds no graph that onnxruntime can run */
async function openRewardGraph(folder: string): Promise<RewardGraph> {
  const { onnx } = await readModelManifest(folder);
  if (!onnx)
    throw new ModelRefused(
      'finegrain.json names no ONNX graph: only models of the role token_reward can score',
    );
  const session = await ort.InferenceSession.create(join(folder, onnx.file), {
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    logSeverityLevel: 3,
    extra: { session: { intra_op: { allow_spinning: '0' }, inter_op: { allow_spinning: '0' } } },
  }).catch((error: Error) => {
    throw new ModelRefused(`${onnx.file} cannot be loaded: ${error.message.replaceAll(`${folder}/`, '')}`);
  });
  if (!session.inputNames.includes(onnx.input) || !session.outputNames.includes(onnx.output)) {
    throw new ModelRefused(
      `${onnx.file} has inputs ${session.inputNames} and outputs ${session.outputNames}, not ${onnx.input} and ${onnx.output}`,
    );
  }
  return {
    async score(tokenIds, promptLength) {
      const input = new ort.Tensor('int64', BigInt64Array.from(tokenIds, BigInt), [1, tokenIds.length]);
      const rewards = (await session.run({ [onnx.input]: input }, [onnx.output]))[onnx.output];
      if (!(rewards?.data instanceof Float32Array) || rewards.data.length !== tokenIds.length) {
        throw new Error(
          `the graph gave ${rewards?.type} [${rewards?.dims}] for ${tokenIds.length} tokens, not one float32 for each`,
        );
      }
      return rewards.data.slice(promptLength);
    },
    release: () => session.release(),
  };
}

// the parent may be gone by now, which 'disconnect' reports
const reply = (message: ScorerReply): void => void process.send?.(message, undefined, undefined, () => {});

async function answer(
  graph: RewardGraph,
  { id, tokenIds, promptLength }: ScorerRequest & { type: 'score' },
): Promise<ScorerReply> {
  try {
    const rewards = await graph.score(tokenIds, promptLength);
    const wrong = rewards.findIndex((reward) => !Number.isFinite(reward));
    if (wrong === -1) return { type: 'scored', id, rewards };
    return {
      type: 'failed',
      id,
      code: 'not_finite',
      detail: `The model gives ${rewards[wrong]} for token ${wrong} of the response.`,
    };
  } catch (error) {
    return {
      type: 'failed',
      id,
      code: 'model_failed',
      detail: `The model cannot compute this: ${(error as Error).message}`,
    };
  }
}

async function serve(folder: string): Promise<void> {
  const graph = await openRewardGraph(folder);
  const largestDifference = await checkGoldenRewards(folder, graph.score);
  let work = Promise.resolve();
  const ended = new Promise<void>((resolve) => {
    process.once('disconnect', resolve);
    process.on('message', (request: ScorerRequest) => {
      if (request.type === 'close') resolve();
      else work = work.then(async () => reply(await answer(graph, request)));
    });
  });
  reply({ type: 'ready', largestDifference });
  if (process.connected) await ended;
  await work;
  await graph.release();
}

// a signal to the whole process group (Ctrl-C) is the parent's to answer: it still drains what it has accepted
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});

try {
  await serve(process.argv[2]!);
} catch (error) {
  if (!(error instanceof ModelRefused)) throw error;
  reply({ type: 'refused', reason: error.message });
}
if (process.connected) process.disconnect();
