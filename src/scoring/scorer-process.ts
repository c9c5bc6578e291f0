// A scorer process: owns one ONNX session and scores one sequence at a time on one thread. It is a process of its own
// because a native crash or hang must cost no more than the sequence at hand. Its life is bound to the channel to its
// parent: it ends when told to or when the parent goes away, and never in the middle of a run, which would abort it.
// It imports little, so that it starts fast.
//
// node scorer-process.ts GRAPH_FILE INPUT OUTPUT, started by scorer.ts
import ort from 'onnxruntime-node';
import type { ScorerReply, ScorerRequest } from './scorer-protocol.ts';

interface RewardGraph {
  /** Rewards of the tokens after the first `promptLength`. */
  score(tokenIds: Int32Array, promptLength: number): Promise<Float32Array>;
  release(): Promise<void>;
}

/** @throws Error when onnxruntime cannot run the graph, or it lacks the input or the output */
async function openRewardGraph(file: string, input: string, output: string): Promise<RewardGraph> {
  const session = await ort.InferenceSession.create(file, {
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    logSeverityLevel: 3,
    extra: { session: { intra_op: { allow_spinning: '0' }, inter_op: { allow_spinning: '0' } } },
  });
  const { inputNames, outputNames } = session;
  if (!inputNames.includes(input) || !outputNames.includes(output)) {
    throw new Error(`it has inputs ${inputNames} and outputs ${outputNames}, not ${input} and ${output}`);
  }
  return {
    async score(tokenIds, promptLength) {
      const ids = new ort.Tensor('int64', BigInt64Array.from(tokenIds, BigInt), [1, tokenIds.length]);
      const rewards = (await session.run({ [input]: ids }, [output]))[output];
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
  { tokenIds, promptLength }: ScorerRequest & { type: 'score' },
): Promise<ScorerReply> {
  try {
    const rewards = await graph.score(tokenIds, promptLength);
    const wrong = rewards.findIndex((reward) => !Number.isFinite(reward));
    if (wrong === -1) return { type: 'scored', rewards };
    const detail = `The model gives ${rewards[wrong]} for token ${wrong} of the response.`;
    return { type: 'failed', code: 'not_finite', detail };
  } catch (error) {
    const detail = `The model cannot compute this: ${(error as Error).message}`;
    return { type: 'failed', code: 'model_failed', detail };
  }
}

async function serve(graph: RewardGraph): Promise<void> {
  let work = Promise.resolve();
  const ended = new Promise<void>((resolve) => {
    process.once('disconnect', resolve);
    process.on('message', (request: ScorerRequest) => {
      if (request.type === 'close') resolve();
      else work = work.then(async () => reply(await answer(graph, request)));
    });
  });
  reply({ type: 'ready' });
  if (process.connected) await ended;
  await work;
  await graph.release();
}

// a signal to the whole process group (Ctrl-C) is the parent's to answer: it still drains what it has accepted
process.on('SIGINT', () => {});
process.on('SIGTERM', () => {});

const [file, input, output] = process.argv.slice(2) as [string, string, string];
const graph = await openRewardGraph(file, input, output).catch((error: Error) => {
  reply({ type: 'refused', reason: error.message });
});
if (graph) await serve(graph);
if (process.connected) process.disconnect();
