// Scorer processes before they have a model: started when one is wanted, or ahead of that, as Node and onnxruntime take a
// tenth of a second to start.
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { ScorerReply, ScorerRequest } from './scorer-protocol.ts';

/** What scorer processes compute on. */
export interface ScoringProvider {
  name: 'cpu' | 'cuda';
  /** that processes on a GPU are given: where its libraries are, which devices they may use */
  environment: Record<string, string>;
}

export const cpu: ScoringProvider = { name: 'cpu', environment: {} };

/** The process ended or was killed while it held work. */
export class ScorerDied extends Error {}

/** It waits for its graph, and may end before it gets one. */
export interface ScorerProcess {
  provider: ScoringProvider['name'];
  child: ChildProcess;
  channel: Channel;
}

export interface ScorerProcesses {
  take(provider: ScoringProvider): ScorerProcess;
  /** Ends the one that nobody took, and waits until those that were taken are gone, too: their takers end them. */
  close(): Promise<void>;
}

const program = fileURLToPath(new URL('./scorer-process.js', import.meta.url));

/**
 * @param ahead what one process that is started now will compute on; null: none is
 * @param idleMs nobody took it for so long: it ends
 */
export function openScorerProcesses(ahead: ScoringProvider | null, idleMs: number): ScorerProcesses {
  const alive = new Set<Promise<void>>();
  function startOne(provider: ScoringProvider): ScorerProcess {
    const process = start(provider);
    const { ended } = process.channel;
    alive.add(ended);
    void ended.then(() => alive.delete(ended));
    return process;
  }
  let waiting = ahead && startOne(ahead);
  const endWaiting = (): void => {
    waiting?.channel.tell({ type: 'close' });
    waiting = null;
  };
  const timer = setTimeout(endWaiting, idleMs).unref();
  return {
    take(provider) {
      if (waiting?.provider !== provider.name) return startOne(provider);
      const taken = waiting;
      waiting = null;
      return taken;
    },
    async close() {
      clearTimeout(timer);
      endWaiting();
      await Promise.all(alive);
    },
  };
}

function start({ name, environment }: ScoringProvider): ScorerProcess {
  const child = fork(program, [], {
    serialization: 'advanced',
    // ours holds secrets that an uploaded model's process needs none of; float32 is to be float32 (TF32 has 10 bits)
    env: name === 'cpu' ? {} : { NVIDIA_TF32_OVERRIDE: '0', ...environment },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  });
  return { provider: name, child, channel: openChannel(child) };
}

export interface Channel {
  /** The next message. A process that does not give it in time is killed. @throws ScorerDied */
  answer(limitMs: number): Promise<ScorerReply>;
  tell(request: ScorerRequest): void;
  ended: Promise<void>;
}

function openChannel(child: ChildProcess): Channel {
  let lastWords = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    lastWords = (lastWords + text).slice(-2000);
  });
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
        `The scorer process ${how}.${lastWords ? ` Its last words: ${lastWords.trim()}` : ''}`,
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
