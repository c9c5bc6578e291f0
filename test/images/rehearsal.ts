// Builds our images and starts processes of them without a container engine: every instruction of the Dockerfile is
// carried out in a copy-on-write layer over this machine, which stands in for the base image, with the environment that
// a build has; processes run in it as the image's user, without capabilities, the root file system read-only.
// Needs root, a mount namespace of its own (`unshare --mount`) and Debian or Ubuntu as the machine.
import { type ChildProcess, spawn } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile } from 'node:fs/promises';
import { dirname, isAbsolute, join, posix } from 'node:path';
import { type Ended, runProgram } from '../support/programs.ts';
import { copied, parseDockerfile, type Stage } from './dockerfile.ts';

export interface Image {
  root: string;
  workdir: string;
  env: Record<string, string>;
  user: string;
  entrypoint: string[];
  command: string[];
  healthcheck: string[];
}

const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

async function must(command: string, ...args: string[]): Promise<string> {
  const ended: Ended = await runProgram(command, args);
  if (ended.code !== 0) throw new Error(`${[command, ...args].join(' ')}\n${ended.stdout}\n${ended.stderr}`);
  return ended.stdout;
}

const cache = new Map<string, Image>();

/** @param folder where the layers lie; on no overlay itself. @param context what .dockerignore leaves of the repository */
export async function buildImage(folder: string, context: string, dockerfile: string): Promise<Image> {
  const built = new Map<string, Image>();
  for (const stage of parseDockerfile(await readFile(dockerfile, 'utf8'))) {
    const key = JSON.stringify(stage);
    const image = cache.get(key) ?? (await buildStage(folder, context, stage, built));
    if (stage.name !== null) cache.set(key, image); // as an engine does, for the stage that all Dockerfiles begin with
    built.set(stage.name ?? 'last', image);
  }
  return built.get('last')!;
}

async function buildStage(
  folder: string,
  context: string,
  stage: Stage,
  built: Map<string, Image>,
): Promise<Image> {
  const image: Image = {
    root: await layer(folder),
    workdir: '/',
    env: { PATH: path },
    user: 'root',
    entrypoint: [],
    command: [],
    healthcheck: [],
  };
  if (stage.base.startsWith('node:'))
    await must('install', '-D', process.execPath, join(image.root, 'usr/local/bin/node'));
  const variables: Record<string, string> = {};
  for (const instruction of stage.instructions) {
    const { name, text } = instruction;
    const within = (target: string) => (isAbsolute(target) ? target : posix.join(image.workdir, target));
    if (name === 'WORKDIR') {
      image.workdir = within(text);
      await mkdir(join(image.root, image.workdir), { recursive: true });
    } else if (name === 'COPY') {
      const { from, sources, target } = copied(instruction);
      const origin = from === null ? context : built.get(from)!.root;
      for (const source of sources)
        await copy(join(origin, source), join(image.root, within(target)), target);
    } else if (name === 'RUN') {
      const start = Date.now();
      const env = Object.entries({ ...image.env, HOME: '/root', ...variables }).map(([n, v]) => `${n}=${v}`);
      const script = `cd ${image.workdir} && ${text}`;
      const said = await must('chroot', image.root, 'env', '-i', ...env, 'sh', '-c', script);
      const seconds = ((Date.now() - start) / 1000).toFixed(0);
      console.log(`  RUN ${text} (${seconds} s)${said.trim() && `\n    ${said.trim().split('\n').at(-1)}`}`);
    } else if (name === 'ENV') {
      for (const [, n, v] of text.matchAll(/(\w+)=(\S+)/g)) image.env[n!] = v!;
    } else if (name === 'ARG') variables[text] = process.env[text] ?? '';
    else if (name === 'USER') image.user = text;
    else if (name === 'ENTRYPOINT') image.entrypoint = JSON.parse(text);
    else if (name === 'CMD') image.command = JSON.parse(text);
    else if (name === 'HEALTHCHECK') image.healthcheck = JSON.parse(text.slice(text.indexOf('[')));
    else if (!['EXPOSE', 'VOLUME', 'STOPSIGNAL'].includes(name))
      throw new Error(`The rehearsal does not know ${name}.`);
  }
  return image;
}

/** COPY's rule: a folder gives its content; a file gets its own name below a target that ends with a slash. */
async function copy(source: string, target: string, given: string): Promise<void> {
  const isFolder = (await must('stat', '-c', '%F', source)).trim() === 'directory';
  if (isFolder) await cp(source, target, { recursive: true });
  else {
    const file = /(^|\/)\.?\/?$/.test(given) ? join(target, posix.basename(source)) : target;
    await mkdir(dirname(file), { recursive: true });
    await must('cp', '--no-dereference', '--preserve=mode', source, file);
  }
}

async function layer(folder: string): Promise<string> {
  const [upper, work, root] = await Promise.all(
    ['upper', 'work', 'root'].map((name) => mkdtemp(join(folder, `${name}-`))),
  );
  const options = `lowerdir=/,upperdir=${upper},workdir=${work}`;
  await must('mount', '-t', 'overlay', 'overlay', '-o', options, root!);
  await must('chmod', '755', root!);
  for (const kernel of ['proc', 'dev', 'sys'])
    await must('mount', '--rbind', `/${kernel}`, join(root!, kernel));
  return root!;
}

/** Makes the image what a container of it is: read-only but for /tmp and the mounts. @param mounts path → folder here */
export async function freeze(image: Image, mounts: Record<string, string>): Promise<void> {
  for (const target of Object.keys(mounts)) await mkdir(join(image.root, target), { recursive: true });
  await must('mount', '-o', 'remount,ro', image.root);
  await must('mount', '-t', 'tmpfs', '-o', 'mode=1777', 'tmpfs', join(image.root, 'tmp'));
  for (const [target, folder] of Object.entries(mounts))
    await must('mount', '--bind', folder, join(image.root, target));
}

export interface Container {
  process: ChildProcess;
  log(): string;
  ended: Promise<number | null>;
}

/** Its process is the one that the image starts, so a signal reaches it as `docker stop` would. */
export function start(image: Image, env: Record<string, string>, command = image.command): Container {
  const [uid, gid = uid] = image.user.split(':');
  const unprivileged = ['--clear-groups', '--bounding-set=-all', '--inh-caps=-all', '--no-new-privs'];
  const variables = Object.entries({ ...image.env, ...env }).map(([name, value]) => `${name}=${value}`);
  const child = spawn(
    'chroot',
    [
      image.root,
      'setpriv',
      `--reuid=${uid}`,
      `--regid=${gid}`,
      ...unprivileged,
      'env',
      '-i',
      `--chdir=${image.workdir}`,
      ...variables,
      ...image.entrypoint,
      ...command,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let log = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      log += text;
    });
  const ended = new Promise<number | null>((resolve) => {
    child.once('close', (code) => resolve(code));
  });
  return { process: child, log: () => log, ended };
}
