// Where figures were measured: machine, versions, commit. What cannot be had is null, and never stops a demo or a benchmark.
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import os from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export interface Environment {
  /** `Debian GNU/Linux 12 (bookworm), Linux 6.1.0 x64` */
  operating_system: string;
  cpu: string | null;
  /** That this process may use. */
  cores: number;
  memory_gib: number;
  node: string;
  /** Of the trainer. */
  python: string | null;
  torch: string | null;
  git: { commit: string; dirty: boolean } | null;
}

const projectFolder = fileURLToPath(new URL('../..', import.meta.url));

/** @param python the interpreter of the trainer; none: its versions are null */
export async function collectEnvironment(python?: string): Promise<Environment> {
  const [distribution, versions, git] = await Promise.all([
    distributionName(),
    python ? trainerVersions(python) : undefined,
    gitState(),
  ]);
  const kernel = `${os.type()} ${os.release()} ${os.arch()}`;
  return {
    operating_system: distribution ? `${distribution}, ${kernel}` : kernel,
    cpu: os.cpus()[0]?.model.trim() || null,
    cores: os.availableParallelism(),
    memory_gib: Math.round(os.totalmem() / 2 ** 30),
    node: process.versions.node,
    python: versions?.python ?? null,
    torch: versions?.torch ?? null,
    git,
  };
}

async function distributionName(): Promise<string | null> {
  const release = await readFile('/etc/os-release', 'utf8').catch(() => ''); // Linux only
  return /^PRETTY_NAME="?([^"\n]+)/m.exec(release)?.[1] ?? null;
}

/** Read from the installed packages: importing torch would take seconds. */
async function trainerVersions(python: string): Promise<{ python: string; torch: string } | null> {
  const program =
    'import importlib.metadata as m, json, platform\n' +
    'print(json.dumps({"python": platform.python_version(), "torch": m.version("torch")}))';
  const output = await outputOf(python, ['-c', program]);
  return output === null ? null : JSON.parse(output);
}

/** Of this project's own repository: a copy within another repository has no commit. */
async function gitState(): Promise<Environment['git']> {
  const output = await outputOf('git', ['rev-parse', '--show-prefix', 'HEAD']); // the prefix is empty at the top
  const changes = await outputOf('git', ['status', '--porcelain']);
  if (output === null || changes === null || !/^[0-9a-f]+$/.test(output)) return null;
  return { commit: output, dirty: changes !== '' };
}

/** What a program prints, or null when it is missing or fails. */
async function outputOf(program: string, parameters: string[]): Promise<string | null> {
  try {
    const { stdout } = await promisify(execFile)(program, parameters, {
      cwd: projectFolder,
      timeout: 20_000,
    });
    return stdout.trim();
  } catch {
    return null;
  }
}
