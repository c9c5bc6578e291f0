// An ONNX graph that gives token rewards, one sequence at a time on one thread. Graphs that take a past (the trainer's
// scoring_graph.py) compute the prompt of several responses once, and recent ones are kept.
//
// A reward never depends on how it was computed, to the last bit. What makes that so: one sequence at a time, one thread,
// and no piece of one token, as products with one row go through other instructions; it gets a token behind it. On a GPU
// (graphs without a past) none of this is promised.
import { hash } from 'node:crypto';
import { createRequire } from 'node:module';
import type * as Ort from 'onnxruntime-node';

// CommonJS of 60 files, which an import would first search for names: 40 ms of each process
const ort: typeof Ort = createRequire(import.meta.url)('onnxruntime-node');

export interface RewardGraphFile {
  /** absolute */
  file: string;
  input: string;
  output: string;
  /** of a graph where keys and values come in and go out */
  past?: { layers: number; key_value_heads: number; head_size: number } | undefined;
}

export interface RewardGraph {
  /**
   * Rewards of the tokens after the first `promptLength`.
   * @param sharesPrompt other responses to the same prompt follow
   */
  score(tokenIds: Int32Array, promptLength: number, sharesPrompt: boolean): Promise<Float32Array>;
  release(): Promise<void>;
}

// of a graph that takes a past
const pieceInputs = ['length', 'first'];

/**
 * @param provider of ONNX Runtime: `cpu`, or `cuda`, which leaves to the CPU what it has no kernel for
 * @throws Error when onnxruntime cannot run the graph, or has no such provider, or the graph lacks an input or an output
 */
export async function openRewardGraph(graph: RewardGraphFile, provider = 'cpu'): Promise<RewardGraph> {
  const session = await ort.InferenceSession.create(graph.file, {
    executionProviders: [provider],
    intraOpNumThreads: 1,
    interOpNumThreads: 1,
    executionMode: 'sequential',
    logSeverityLevel: 3,
    extra: {
      session: {
        intra_op: { allow_spinning: '0' },
        inter_op: { allow_spinning: '0' },
        set_denormal_as_zero: '1', // places that are not seen have a share of 1e-39, which processors are slow with
      },
    },
  });
  const { inputNames, outputNames } = session;
  const missing = [
    ...[graph.input, ...(graph.past ? pieceInputs : []), ...pastNames(graph, 'past')].filter(
      (name) => !inputNames.includes(name),
    ),
    ...[graph.output, ...pastNames(graph, 'new')].filter((name) => !outputNames.includes(name)),
  ];
  if (missing.length > 0)
    throw new Error(`it has inputs ${inputNames} and outputs ${outputNames}, and lacks ${missing}`);
  const score = graph.past ? withPast(session, graph, graph.past) : whole(session, graph);
  return { score, release: () => session.release() };
}

type Run = (feeds: Record<string, Ort.Tensor>, outputs: string[]) => Promise<Record<string, Ort.Tensor>>;

const tensorOf = (tokenIds: Int32Array) =>
  new ort.Tensor('int64', BigInt64Array.from(tokenIds, BigInt), [1, tokenIds.length]);

function rewardsOf(output: Ort.Tensor | undefined, count: number): Float32Array {
  if (!(output?.data instanceof Float32Array) || output.data.length !== count)
    throw new Error(
      `the graph gave ${output?.type} [${output?.dims}] for ${count} tokens, not one float32 for each`,
    );
  return output.data;
}

function whole(session: { run: Run }, { input, output }: RewardGraphFile): RewardGraph['score'] {
  return async (tokenIds, promptLength) => {
    const given = await session.run({ [input]: tensorOf(tokenIds) }, [output]);
    return rewardsOf(given[output], tokenIds.length).slice(promptLength);
  };
}

function pastNames({ past }: RewardGraphFile, when: 'past' | 'new'): string[] {
  const layers = Array.from({ length: past?.layers ?? 0 }, (_, layer) => layer);
  return layers.flatMap((layer) => [`${when}_key.${layer}`, `${when}_value.${layer}`]);
}

/** Keys and values of the first tokens of a sequence, under the names of the inputs. */
interface Past {
  length: number;
  values: Record<string, Ort.Tensor>;
}

// below, a piece of its own costs about what it saves
const leastShared = 8;
const keptBytes = 128 * 1024 * 1024;
const rememberedPrompts = 4096;

function withPast(
  session: { run: Run },
  graph: RewardGraphFile,
  shape: NonNullable<RewardGraphFile['past']>,
): RewardGraph['score'] {
  const { input, output } = graph;
  const [taken, given] = [pastNames(graph, 'past'), pastNames(graph, 'new')];
  const emptyTensor = new ort.Tensor('float32', new Float32Array(0), [
    1,
    shape.key_value_heads,
    0,
    shape.head_size,
  ]);
  const none: Past = { length: 0, values: Object.fromEntries(taken.map((name) => [name, emptyTensor])) };
  const bytesPerToken = 2 * 4 * shape.layers * shape.key_value_heads * shape.head_size;
  const kept = new Map<string, Past>(); // the last used at the end
  let keptTokens = 0;
  const seen = new Set<string>();

  /** @param first of the tokens whose reward is wanted */
  function feedsOf(
    tokenIds: Int32Array,
    { length, values }: Past,
    first: number,
  ): Record<string, Ort.Tensor> {
    const total = length + tokenIds.length;
    return {
      [input]: tensorOf(tokenIds),
      length: new ort.Tensor('int32', Int32Array.of(total), []),
      first: new ort.Tensor('int64', BigInt64Array.of(BigInt(first)), [1]),
      ...values,
    };
  }

  async function compute(prefix: Int32Array): Promise<Past> {
    const made = await session.run(feedsOf(prefix, none, prefix.length - 1), given);
    const values = Object.fromEntries(taken.map((name, index) => [name, made[given[index]!]!]));
    return { length: prefix.length, values };
  }

  function keep(key: string, past: Past): void {
    kept.set(key, past);
    keptTokens += past.length;
    for (const [oldest, { length }] of kept) {
      if (keptTokens * bytesPerToken <= keptBytes || oldest === key) break;
      kept.delete(oldest);
      keptTokens -= length;
    }
  }

  /** Of a prompt that comes more than once; a first one that nobody announced is computed with its response. */
  async function pastOf(prefix: Int32Array, sharesPrompt: boolean): Promise<Past> {
    if (prefix.length < leastShared) return none;
    const key = hash('sha256', new Uint8Array(prefix.buffer, prefix.byteOffset, prefix.byteLength), 'base64');
    const known = kept.get(key);
    if (known) {
      kept.delete(key);
      kept.set(key, known);
      return known;
    }
    if (!sharesPrompt && !seen.has(key)) {
      seen.add(key);
      if (seen.size > rememberedPrompts) seen.delete(seen.values().next().value!);
      return none;
    }
    const past = await compute(prefix);
    keep(key, past);
    return past;
  }

  return async (tokenIds, promptLength, sharesPrompt) => {
    const past = await pastOf(tokenIds.subarray(0, promptLength), sharesPrompt);
    const rest = tokenIds.subarray(past.length);
    const padded = rest.length === 1 ? Int32Array.of(...rest, 0) : rest;
    const first = promptLength - past.length;
    const run = await session.run(feedsOf(padded, past, first), [output]);
    return rewardsOf(run[output], padded.length - first).slice(0, rest.length - first);
  };
}
