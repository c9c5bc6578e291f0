// Scores token sequences on registered models. Each model in use has its own processes and queue (lane.ts); all queues
// together are bounded in tokens, and the processes by cores and memory. What a caller gets never depends on what else is
// queued: sequences are scored one by one. A model too large to hold has a server elsewhere in the place of processes
// (http-scorer.ts): it takes neither cores nor memory, and what waits for it keeps nothing else from being scored.
import { setMaxListeners } from 'node:events';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { Problem } from '../errors.ts';
import type { ArtifactStore } from '../storage/artifact-store.ts';
import { materialiseModel, type StoredModel } from '../storage/model-folder.ts';
import { checkGoldenRewards, checkGoldenTokens, readGolden } from './golden.ts';
import { requestsAtOnce, type ServerAccess, startHttpScorer } from './http-scorer.ts';
import { explain, type Job, type Lane, openLane } from './lane.ts';
import { openMemoryBudget } from './memory-budget.ts';
import { ModelRefused } from './model-json.ts';
import { type ModelManifest, type ModelServer, type Precision, readModelManifest } from './model-manifest.ts';
import { openPlaces } from './places.ts';
import type { RewardGraphFile } from './reward-graph.ts';
import { providerOf, type Scorer, type Sequence, type SequenceScore, startScorer } from './scorer.ts';
import { cpu, openScorerProcesses, type ScoringProvider } from './scorer-processes.ts';
import { loadModelTokenizer, type ModelTokenizer } from './tokenizer.ts';

export type { StoredModel } from '../storage/model-folder.ts';
export type { ServerAccess } from './http-scorer.ts';
export { type Precision, precisions } from './model-manifest.ts';
export type { Sequence, SequenceScore } from './scorer.ts';
export type { EncodedResponse, ModelTokenizer } from './tokenizer.ts';

/** Counted since the start. */
export interface ScoringFigures {
  /** prompt and response together */
  scoredTokens: number;
  queuedTokens: number;
  /** requests that were turned away because too much was queued */
  refusals: number;
  /** scorer processes that ended while they were needed */
  restarts: number;
  /** models that have a scorer process, or a server that answers */
  loadedModels: number;
}

/** A model, and whose it is: a secret of that project opens its server, where it has one. */
export interface ServedModel extends StoredModel {
  project_id?: string | null;
}

export interface ScoreOptions {
  /** fp32 unless said */
  precision?: Precision | undefined;
  /** is told each score as it comes, in any order, all of them before the promise resolves */
  onScore?: (index: number, score: SequenceScore) => void;
}

export interface ScoringEngine {
  /**
   * One score for each sequence, in their order; a response without tokens has no rewards. Responses whose `promptIds` are
   * the same array share the work on it.
   * @param signal takes back what has not begun, and breaks off requests to a server
   * @throws Problem overloaded; unprocessable when the model cannot be served; unavailable; the signal's reason
   */
  score(
    model: ServedModel,
    sequences: Sequence[],
    signal: AbortSignal,
    options?: ScoreOptions,
  ): Promise<SequenceScore[]>;
  /**
   * Loads the model, if it is not loaded, and waits for it; one that is served elsewhere is asked anew, as it may have gone.
   * @param signal ends the wait, not the load
   * @throws as score
   */
  warm(model: ServedModel, signal: AbortSignal): Promise<void>;
  /** The tokenizer of a registered model of any role. @throws Problem unprocessable, unavailable */
  tokenizer(model: StoredModel): Promise<ModelTokenizer>;
  figures(): ScoringFigures;
  /** Its process is there, about to be, not there, or why it cannot be served. */
  stateOf(model: ServedModel): 'loaded' | 'loading' | 'not_loaded' | Problem;
  /** Takes nothing more, finishes what is queued, ends the processes. */
  close(): Promise<void>;
}

export interface ScoringEngineOptions {
  /** where model folders are laid out; nothing in it needs a backup */
  modelCacheFolder: string;
  artifacts: ArtifactStore;
  /** without it, models that are served elsewhere are refused */
  servers?: ServerAccess;
  log: Logger;
  /** of one model, and in all that compute at a time; each takes a core */
  maxScorers: number;
  /** of all scorer processes, as estimated from the size of their graphs */
  memoryBytes: number;
  /** the CPU unless given */
  provider?: ScoringProvider;
  /** has a process ready, so that the first model does not wait for one to start */
  ahead?: boolean;
  /** of all models that are held here, and of each that is served elsewhere; a request is taken whole while there are fewer */
  maxQueuedTokens?: number;
  /** a process without work ends after this long */
  idleMs?: number;
  /** for each sequence; a process that takes longer is killed and replaced, a server is given up */
  answerLimitMs?: number;
}

const lengthOf = ({ promptIds, responseIds }: Sequence): number => promptIds.length + responseIds.length;

/** True for a model without a graph of its own: it takes nothing of this machine. */
export const isElsewhere = ({ files }: StoredModel): boolean =>
  !files.some(({ path }) => path.endsWith('.onnx'));

// equal files of two projects may share a process, but never the key of a server
const laneKey = (model: ServedModel, precision: Precision): string =>
  `${model.digest} ${precision} ${isElsewhere(model) ? model.project_id : ''}`;

/** What waits for it counts in one queue with what waits for other models here, or in its own. */
interface Served {
  lane: Lane;
  queue: Queue;
}

interface Queue {
  tokens: number;
}

const maxTokenizers = 8;
const assumedTokensPerSecond = 3_000; // a model of 14 M parameters on one core

// A process needs its graph twice (as read, and as laid out for its kernels), what a long sequence takes, and the
// prefixes that it keeps.
const processBytes = 320 * 1024 ** 2;
const bytesOf = ({ files }: StoredModel): number =>
  processBytes + 2 * files.reduce((sum, { path, bytes }) => sum + (/\.onnx\b/.test(path) ? bytes : 0), 0);

/** @throws ModelRefused */
function graphOf({ graphs }: ModelManifest, folder: string, precision: Precision): RewardGraphFile {
  const named = graphs[precision];
  if (precision === 'int8' && !named)
    throw new ModelRefused('it is not offered in int8, as finegrain.json names no such graph');
  if (!named)
    throw new ModelRefused('finegrain.json names no ONNX graph and no server, as token reward models do');
  return { ...named, file: join(folder, named.file) };
}

export function openScoringEngine({
  modelCacheFolder,
  artifacts,
  servers,
  log,
  maxScorers,
  memoryBytes,
  maxQueuedTokens = 100_000 * maxScorers,
  provider = cpu,
  ahead = false,
  idleMs = 600_000,
  answerLimitMs = 120_000,
}: ScoringEngineOptions): ScoringEngine {
  const lanes = new Map<string, Served>();
  const tokenizers = new Map<string, Promise<ModelTokenizer>>();
  const counts = { scoredTokens: 0, refusals: 0, restarts: 0 };
  const queueHere: Queue = { tokens: 0 };
  let queuedTokens = 0; // in all queues
  let tokensPerSecond = assumedTokensPerSecond; // of one scorer, lately
  let closing = false;

  const cores = openPlaces(maxScorers);
  const memory = openMemoryBudget(memoryBytes, () => {
    const idle = [...lanes.values()]
      .filter(({ queue, lane }) => queue === queueHere && lane.idleSince !== null)
      .map(({ lane }) => lane)
      .sort((a, b) => a.idleSince! - b.idleSince!);
    void idle[0]?.rest();
  });

  const processes = openScorerProcesses(ahead ? provider : null, idleMs);

  const folderOf = (model: StoredModel): Promise<string> =>
    materialiseModel(modelCacheFolder, artifacts, model).catch((error: Error) => {
      log.error({ err: error, model: model.digest }, 'the files of a model cannot be laid out');
      throw new Problem(
        'unavailable',
        'The files of the model cannot be read. The log of the service says why.',
      );
    });

  async function tokenizer(model: StoredModel): Promise<ModelTokenizer> {
    const loaded = tokenizers.get(model.digest) ?? folderOf(model).then(loadModelTokenizer);
    tokenizers.delete(model.digest); // the last used goes to the end
    tokenizers.set(model.digest, loaded);
    if (tokenizers.size > maxTokenizers) tokenizers.delete(tokenizers.keys().next().value!);
    return loaded.catch((error) => {
      if (tokenizers.get(model.digest) === loaded) tokenizers.delete(model.digest);
      throw explain(error);
    });
  }

  /** @throws ModelRefused, ScorerDied, Problem */
  async function start(model: ServedModel, precision: Precision, proven: boolean): Promise<Scorer> {
    const folder = await folderOf(model);
    const manifest = await readModelManifest(folder);
    const { server } = manifest;
    const graph = server && precision === 'fp32' ? null : graphOf(manifest, folder, precision);
    const open = () =>
      graph
        ? startScorer(graph, processes.take(providerOf(graph, provider)), log, answerLimitMs)
        : reach(server!, model);
    if (proven) return open();
    const opening = open();
    opening.catch(() => {}); // noticed below, perhaps after it happened
    try {
      const golden = await readGolden(folder);
      await checkGoldenTokens(golden, await tokenizer(model)); // while the process loads
      const scorer = await opening;
      await checkGoldenRewards(golden, precision, scorer.score);
      return scorer;
    } catch (error) {
      void opening.then(
        (scorer) => scorer.close(),
        () => {},
      );
      throw error;
    }
  }

  /** @throws ModelRefused, Problem */
  async function reach(server: ModelServer, model: ServedModel): Promise<Scorer> {
    const { secret } = server;
    const owner = model.project_id;
    if (!servers) throw new ModelRefused('it is served elsewhere, and this process calls no servers');
    if (!isElsewhere(model))
      throw new ModelRefused('finegrain.json names a server, and there is a graph, too');
    if (secret !== null && owner == null) throw new ModelRefused('it is of no project that has secrets');
    const readKey = secret === null ? null : () => servers.readKey(owner!, secret);
    return startHttpScorer(server, servers.outgoing, readKey, log, answerLimitMs);
  }

  function laneOf(model: ServedModel, precision: Precision): Served {
    const key = laneKey(model, precision);
    const known = lanes.get(key);
    if (known) return known;
    const lane = openLane({
      start: (proven) => start(model, precision, proven),
      ...(isElsewhere(model)
        ? {
            bytes: 0,
            memory: openMemoryBudget(0),
            cores: openPlaces(requestsAtOnce),
            maxScorers: requestsAtOnce,
          }
        : { bytes: bytesOf(model), memory, cores, maxScorers }),
      log: log.child({ model: model.digest, precision }),
      idleMs,
      onRestart() {
        counts.restarts++;
      },
      onIdle() {
        lanes.delete(key);
        void lane.rest();
      },
    });
    const served = { lane, queue: isElsewhere(model) ? { tokens: 0 } : queueHere };
    lanes.set(key, served);
    return served;
  }

  async function score(
    model: ServedModel,
    sequences: Sequence[],
    signal: AbortSignal,
    { precision = 'fp32', onScore }: ScoreOptions = {},
  ): Promise<SequenceScore[]> {
    signal.throwIfAborted();
    if (closing)
      throw new Problem('unavailable', 'The service is about to stop. Try again in a moment.', {
        retryAfterSeconds: 5,
      });
    const { lane, queue } = laneOf(model, precision);
    if (lane.refusal) throw lane.refusal;
    const tokens = sequences.reduce((sum, sequence) => sum + lengthOf(sequence), 0);
    if (queue.tokens >= maxQueuedTokens) {
      counts.refusals++;
      throw new Problem(
        'overloaded',
        `${queue.tokens} tokens are waiting to be scored; more are taken when there are fewer than ${maxQueuedTokens}. Try again later.`,
        { retryAfterSeconds: Math.min(60, queue.tokens / (tokensPerSecond * maxScorers)) },
      );
    }
    const responsesTo = new Map<unknown, number>();
    for (const { promptIds } of sequences) responsesTo.set(promptIds, (responsesTo.get(promptIds) ?? 0) + 1);
    const jobs = new Set<Job>();
    const over = new AbortController(); // nobody waits for any of them
    setMaxListeners(0, over.signal);
    const scores = sequences.map((sequence): SequenceScore | Promise<SequenceScore> =>
      sequence.responseIds.length === 0
        ? { rewards: new Float32Array(0) }
        : new Promise((resolve, fail) => {
            const done = (score: SequenceScore, milliseconds: number): void => {
              const length = lengthOf(sequence);
              counts.scoredTokens += length;
              if (queue === queueHere)
                tokensPerSecond += ((1000 * length) / Math.max(1, milliseconds) - tokensPerSecond) / 32;
              resolve(score);
            };
            const sharesPrompt = responsesTo.get(sequence.promptIds)! > 1;
            jobs.add({ sequence: { ...sequence, sharesPrompt }, signal: over.signal, done, fail });
          }),
    );
    if (onScore)
      for (const [index, score] of scores.entries())
        void Promise.resolve(score).then(
          (value) => onScore(index, value),
          () => {}, // the promise of all says it
        );
    let leave = (): void => {};
    const aborted = new Promise<never>((_resolve, reject) => {
      leave = () => reject(signal.reason);
      signal.addEventListener('abort', leave);
    });
    queue.tokens += tokens;
    queuedTokens += tokens;
    lane.add([...jobs]);
    try {
      return await Promise.race([Promise.all(scores), aborted]);
    } finally {
      signal.removeEventListener('abort', leave);
      lane.remove(jobs);
      over.abort();
      queue.tokens -= tokens;
      queuedTokens -= tokens;
    }
  }

  return {
    tokenizer,
    score,
    async warm(model, signal) {
      if (!isElsewhere(model) && (lanes.get(laneKey(model, 'fp32'))?.lane.scorers ?? 0) > 0) return;
      await score(model, [{ promptIds: [], responseIds: [0] }], signal); // any token will do
    },
    figures: () => ({
      ...counts,
      queuedTokens,
      loadedModels: [...lanes.values()].filter(({ lane }) => lane.scorers > 0).length,
    }),
    stateOf(model) {
      const lane = lanes.get(laneKey(model, 'fp32'))?.lane;
      if (!lane) return 'not_loaded';
      return lane.refusal ?? (lane.scorers > 0 ? 'loaded' : lane.loading ? 'loading' : 'not_loaded');
    },
    async close() {
      closing = true;
      await Promise.all([...lanes.values()].map(({ lane }) => lane.close()));
      await processes.close(); // some are told to end by then, and not gone: a model that was refused, an idle one
    },
  };
}
