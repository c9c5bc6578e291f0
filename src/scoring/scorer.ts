// One scorer process, seen from its parent: start, one sequence at a time, end. A process that dies or does not answer
// in time is an error of the sequence that it held; starting another is the engine's business.
import { basename } from 'node:path';
import type { Logger } from 'pino';
import { ModelRefused } from './model-json.ts';
import type { RewardGraphFile } from './reward-graph.ts';
import { cpu, ScorerDied, type ScorerProcess, type ScoringProvider } from './scorer-processes.ts';

export interface Sequence {
  promptIds: ArrayLike<number>;
  responseIds: ArrayLike<number>;
  /** other responses to the same prompt come with it */
  sharesPrompt?: boolean;
}

/** `rewards`: one for each token of the response. An error is the item's own: the same again gives the same. */
export type SequenceScore =
  | { rewards: Float32Array }
  | { error: { code: 'not_finite' | 'model_failed'; detail: string } };

/** A process of ours, or a way to a server (http-scorer.ts). */
export interface Scorer {
  /**
   * One at a time.
   * @param signal nobody waits any more; a process finishes all the same
   * @throws ScorerDied; of a server Problem unavailable, ModelRefused, or the signal's reason
   */
  score(sequence: Sequence, signal?: AbortSignal): Promise<SequenceScore>;
  /** Lets the work at hand finish, then ends the process. */
  close(): Promise<void>;
  /** Resolves when the process is gone. */
  ended: Promise<void>;
}

const loadLimitMs = 300_000;

/** What a graph is computed on where `wanted` is there. */
export const providerOf = ({ past }: RewardGraphFile, wanted: ScoringProvider): ScoringProvider =>
  past ? cpu : wanted; // it is made for the CPU (docs/adr/0029)

/**
 * @param answerLimitMs for each sequence; a process that takes longer is killed
 * @throws ModelRefused when the graph cannot be run, ScorerDied when the process could not find out
 */
export async function startScorer(
  graph: RewardGraphFile,
  { provider, child, channel }: ScorerProcess,
  log: Logger,
  answerLimitMs: number,
): Promise<Scorer> {
  const loaded = channel.answer(loadLimitMs);
  channel.tell({ type: 'load', graph, provider });
  const first = await loaded;
  if (first.type === 'refused') {
    channel.tell({ type: 'close' });
    const name = basename(graph.file);
    const where = provider === 'cpu' ? '' : ` on ${provider}, as FINEGRAIN_SCORING_PROVIDER asks for`;
    throw new ModelRefused(`${name} cannot be loaded${where}: ${first.reason.replaceAll(graph.file, name)}`);
  }
  log.info({ pid: child.pid, provider }, 'a scorer is ready');
  return {
    async score({ promptIds, responseIds, sharesPrompt = false }) {
      const tokenIds = new Int32Array(promptIds.length + responseIds.length);
      tokenIds.set(promptIds);
      tokenIds.set(responseIds, promptIds.length);
      const answer = channel.answer(answerLimitMs);
      channel.tell({ type: 'score', tokenIds, promptLength: promptIds.length, sharesPrompt });
      const reply = await answer;
      if (reply.type === 'scored') return { rewards: reply.rewards };
      if (reply.type === 'failed') return { error: { code: reply.code, detail: reply.detail } };
      throw new ScorerDied(`The scorer process answered ${reply.type}, out of turn.`);
    },
    async close() {
      channel.tell({ type: 'close' });
      const kill = setTimeout(() => child.kill('SIGKILL'), answerLimitMs);
      await channel.ended;
      clearTimeout(kill);
    },
    ended: channel.ended,
  };
}
