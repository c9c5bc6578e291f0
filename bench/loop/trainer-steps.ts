// Runs of the trainer as steps of a plan. A step is named by the content of its spec and of everything it reads, so a
// benchmark that was interrupted goes on where it was: finished steps are found again, the trainer resumes the others.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createWriteStream, existsSync } from 'node:fs';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import canonicalize from 'canonicalize';

export interface Step {
  folder: string;
  key: string;
  // biome-ignore lint/suspicious/noExplicitAny: each kind of run has its own result
  result: any;
}

/** In a spec: a model that a step made, or a file of rows. */
export interface Reference {
  path: string;
  /** what stands for it in the name of the step */
  identity: string;
}

export const modelOf = (step: Step): { path: Reference } => ({
  path: { path: join(step.folder, 'output/model'), identity: step.key },
});

export interface TrainerSteps {
  /** the environment that the trainer runs in */
  python: string;
  /** Writes rows once and answers how a spec names them. */
  rows(name: string, rows: Iterable<object>): Promise<Reference>;
  run(kind: string, name: string, spec: object): Promise<Step>;
  /** Rows of an artifact of a step. */
  // biome-ignore lint/suspicious/noExplicitAny: NDJSON that the trainer wrote
  read(step: Step, artifact: string): Promise<any[]>;
}

/**
 * @param folder where steps and rows are kept
 * @param parallel how many trainers run at a time, one thread each
 */
export function openTrainerSteps(
  folder: string,
  python: string,
  parallel: number,
  log: (line: string) => void,
): TrainerSteps {
  const started = new Map<string, Promise<Step>>();
  const place = places(parallel);

  const perform = async (kind: string, name: string, key: string, spec: object): Promise<Step> => {
    const stepFolder = join(folder, 'steps', `${kind}-${key}`);
    const done = join(stepFolder, 'result.json');
    if (!existsSync(done)) {
      await mkdir(stepFolder, { recursive: true });
      await writeFile(join(stepFolder, 'spec.json'), JSON.stringify(spec, null, 1));
      await place(async () => {
        const begun = performance.now();
        const result = await train(python, kind, stepFolder);
        const seconds = (performance.now() - begun) / 1000;
        await writeWhole(done, JSON.stringify({ name, seconds, result }, null, 1));
        log(`${name}: ${kind}, ${seconds.toFixed(0)} s`);
      });
    }
    const { result } = JSON.parse(await readFile(done, 'utf8'));
    return { folder: stepFolder, key, result };
  };

  return {
    python,
    async rows(name, rows) {
      const text = Array.from(rows, (row) => `${JSON.stringify(row)}\n`).join('');
      const identity = createHash('sha256').update(text).digest('hex');
      const path = join(folder, 'rows', `${name}-${identity.slice(0, 16)}.ndjson`);
      if (!existsSync(path)) {
        await mkdir(join(folder, 'rows'), { recursive: true });
        await writeWhole(path, text);
      }
      return { path: resolve(path), identity };
    },
    run(kind, name, spec) {
      const key = createHash('sha256')
        .update(canonicalize([kind, resolveReferences(spec, ({ identity }) => identity)])!)
        .digest('hex')
        .slice(0, 16);
      const step =
        started.get(key) ??
        perform(
          kind,
          name,
          key,
          resolveReferences(spec, ({ path }) => resolve(path)),
        );
      started.set(key, step);
      return step;
    },
    async read(step, artifact) {
      const text = await readFile(join(step.folder, 'output', artifact), 'utf8');
      return text.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line)]));
    },
  };
}

function resolveReferences(value: unknown, of: (reference: Reference) => string): object {
  const visit = (part: unknown): unknown => {
    if (part === null || typeof part !== 'object') return part;
    if (Array.isArray(part)) return part.map(visit);
    if ('identity' in part && 'path' in part) return of(part as Reference);
    return Object.fromEntries(Object.entries(part).map(([key, inner]) => [key, visit(inner)]));
  };
  return visit(value) as object;
}

/** A file that is there is complete. */
async function writeWhole(path: string, text: string): Promise<void> {
  await writeFile(`${path}.writing`, text);
  await rename(`${path}.writing`, path);
}

/** Runs the trainer to its end; resumes what the folder already holds. @throws Error with what it said last */
async function train(python: string, kind: string, folder: string): Promise<object> {
  const child = spawn(
    python,
    [
      '-m',
      'finegrain_trainer',
      kind,
      '--spec',
      join(folder, 'spec.json'),
      '--workdir',
      folder,
      '--supervised',
    ],
    {
      env: {
        ...process.env,
        PYTHONPATH: resolve('runners'),
        PYTHONDONTWRITEBYTECODE: '1',
        FINEGRAIN_TRAINER_THREADS: '1',
      },
      stdio: ['pipe', 'pipe', 'pipe'], // its standard input is its life line: it ends when this process does
    },
  );
  child.stdin.on('error', () => {}); // it has ended, and its exit says how
  const ping = setInterval(() => child.stdin.write('\n'), 5000);
  child.stderr.pipe(createWriteStream(join(folder, 'log.txt')));
  let last: { type?: string; result?: object } = {};
  const events = createWriteStream(join(folder, 'events.ndjson'), { flags: 'a' });
  for await (const line of createInterface({ input: child.stdout })) {
    events.write(`${line}\n`);
    last = JSON.parse(line);
  }
  clearInterval(ping);
  const code = child.exitCode ?? (await new Promise<number | null>((done) => child.once('exit', done)));
  events.end();
  if (code !== 0 || last.type !== 'result') {
    throw new Error(`The trainer (${kind}, ${folder}) ended with ${code}: ${JSON.stringify(last)}`);
  }
  return last.result!;
}

/** At most `count` tasks at a time, in the order of their asking. */
function places(count: number): <T>(task: () => Promise<T>) => Promise<T> {
  let free = count;
  const waiting: (() => void)[] = [];
  return async (task) => {
    if (free > 0) free -= 1;
    else await new Promise<void>((turn) => waiting.push(turn));
    try {
      return await task();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else free += 1;
    }
  };
}
