// The API as a process of its own: to be killed, or to be put under load.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Test } from 'tap';

export interface ApiProcess {
  url: string;
  /** Resolves when it is gone. */
  kill(signal?: NodeJS.Signals): Promise<void>;
}

/** Starts `main-api.ts` on a free port; it is killed when the test ends. */
export async function startApiProcess(t: Test, env: NodeJS.ProcessEnv): Promise<ApiProcess> {
  const { kill, url } = spawnApi(env);
  t.teardown(() => kill());
  return { url: await url, kill };
}

/** Whoever calls this must kill it, also when it never gets ready. */
export function spawnApi(env: NodeJS.ProcessEnv): { url: Promise<string>; kill: ApiProcess['kill'] } {
  const child: ChildProcess = spawn(process.execPath, ['dist/src/main-api.js'], {
    env: {
      PATH: process.env.PATH,
      HOME: process.env.HOME,
      HOST: '127.0.0.1',
      PORT: '0',
      LOG_LEVEL: 'error',
      ...env,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'exit');
  const url = new Promise<string>((resolve, reject) => {
    let said = '';
    child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      said += text;
      const ready = /ready at (http:\S+)/.exec(said)?.[1];
      if (ready) resolve(ready);
    });
    void ended.then(() => reject(new Error(`The API ended before it was ready: ${said}`)));
  });
  return {
    url,
    async kill(signal = 'SIGKILL') {
      child.kill(signal);
      await ended;
    },
  };
}
