// One scorer process, seen from its parent: start, one sequence at a time, end. A process that dies or does not answer
// in time is an error of the sequence that it held; starting another is the engine's business.
import { type ChildProcess, fork } from 'node:child_process';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import { ModelRefused } from './model-json.ts';
import type { RewardGraphFile } from './reward-graph.ts';
import type { ScorerReply, ScorerRequest } from './scorer-protocol.ts';

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

/** The process ended or was killed while it held work. */
export class ScorerDied extends Error {}

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

/** What scorer processes compute on. */
export interface ScoringProvider {
  name: 'cpu' | 'cuda';
  /** that processes on a GPU are given: where its libraries are, which devices they may use */
  environment: Record<string, string>;
}

const program = fileURLToPath(new URL('./scorer-process.js', import.meta.url));

const loadLimitMs = 300_000;

/**
 * @param answerLimitMs for each sequence; a process that takes longer is killed
 * @throws ModelRefused when the graph cannot be run, ScorerDied when the process could not find out
 */
export async function startScorer(
  graph: RewardGraphFile,
  { name: wanted, environment }: ScoringProvider,
  log: Logger,
  answerLimitMs: number,
): Promise<Scorer> {
  const provider = graph.past ? 'cpu' : wanted; // its attention has no kernel for float32 on CUDA (docs/adr/0029)
  const child = fork(program, [JSON.stringify(graph), provider], {
    serialization: 'advanced',
    // ours holds secrets that an uploaded model's process needs none of; float32 is to be float32 (TF32 has 10 bits)
    env: provider === 'cpu' ? {} : { NVIDIA_TF32_OVERRIDE: '0', ...environment },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  let lastWords = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    lastWords = (lastWords + text).slice(-2000);
  });
  const channel = openChannel(child, () => lastWords.trim());
  const first = await channel.answer(loadLimitMs);
  if (first.type === 'refused') {
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

interface Channel {
  /** The next message. A process that does not give it in time is killed. @throws ScorerDied */
  answer(limitMs: number): Promise<ScorerReply>;
  tell(request: ScorerRequest): void;
  ended: Promise<void>;
}

function openChannel(child: ChildProcess, lastWords: () => string): Channel {
  let waiting: {
    resolve(reply: ScorerReply): void;
    reject(error: Error): void;
    limit: NodeJS.Timeout;
  } | null = null;
  let death: ScorerDied | null = null;
  const settle = () => {
    const settled = waiting;
    waiting = null;
    clearTimeout(settled?.limit);
    return settled;
  };
  child.on('message', (reply: ScorerReply) => settle()?.resolve(reply));
  const ended = new Promise<void>((resolve) => {
    const end = (how: string): void => {
      death ??= new ScorerDied(
        `The scorer process ${how}.${lastWords() ? ` Its last words: ${lastWords()}` : ''}`,
      );
      settle()?.reject(death);
      resolve();
    };
    child.once('error', (error) => end(`could not be started: ${error.message}`));
    child.once('exit', (code, signal) => end(signal ? `was ended by ${signal}` : `ended with ${code}`));
  });
  return {
    answer: (limitMs) =>
      new Promise((resolve, reject) => {
        if (death) return reject(death);
        const limit = setTimeout(() => {
          death = new ScorerDied(
            `The scorer process did not answer within ${limitMs / 1000} s and was ended.`,
          );
          child.kill('SIGKILL');
        }, limitMs);
        waiting = { resolve, reject, limit };
      }),
    tell: (request) => void child.send(request, () => {}), // a channel that broke ends the process, which rejects
    ended,
  };
}
