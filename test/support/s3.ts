// A real S3 server, SeaweedFS, which checks signatures and checksums as Amazon's does; each test has a bucket of its own.
// `npm test` starts one for all files (FINEGRAIN_TEST_S3 is its address); a file that is run alone brings its own.
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import type { Test } from 'tap';
import { freePort } from '../../src/db/embedded/server.ts';
import type { S3Place } from '../../src/storage/artifact-place.ts';

export interface S3Server {
  endpoint: string;
  /** Kills it in the middle of whatever it does, and starts it again after a while, with what it had. */
  restart(pauseMs?: number): Promise<void>;
  stop(): Promise<void>;
}

export const s3Credentials = { AWS_ACCESS_KEY_ID: 'finegrain', AWS_SECRET_ACCESS_KEY: 'finegrain-tests' };

/** The program that `npm test` installed, or null. */
export function s3Program(): string | null {
  const installed = resolve(process.env.FINEGRAIN_DATA_DIR || '.finegrain', 's3-server', 'bin', 'weed');
  return process.env.FINEGRAIN_TEST_S3_PROGRAM || (existsSync(installed) ? installed : null);
}

/** @param folder new: what it keeps */
export async function startS3Server(program: string, folder: string): Promise<S3Server> {
  mkdirSync(folder, { recursive: true });
  const settings = join(folder, 'settings.json');
  const { AWS_ACCESS_KEY_ID: accessKey, AWS_SECRET_ACCESS_KEY: secretKey } = s3Credentials;
  const identity = { name: 'tests', credentials: [{ accessKey, secretKey }], actions: ['Admin'] };
  writeFileSync(settings, JSON.stringify({ identities: [identity] }));
  const ports: Record<string, number> = {};
  for (const part of ['master', 'volume', 'filer', 's3'])
    for (const name of [`${part}.port`, `${part}.port.grpc`]) ports[name] = await freePort();
  const endpoint = `http://127.0.0.1:${ports['s3.port']}`;
  const args = [
    'server',
    `-dir=${folder}`,
    '-ip=127.0.0.1',
    '-ip.bind=127.0.0.1',
    '-master.telemetry=false',
    '-master.volumeSizeLimitMB=64',
    '-volume.max=0',
    '-filer',
    '-s3',
    `-s3.config=${settings}`,
    '-s3.port.iceberg=0',
    '-s3.port.lance=0',
    ...Object.entries(ports).map(([name, port]) => `-${name}=${port}`),
  ];
  const logFile = join(folder, 'server.log');
  let child: ChildProcess;
  const start = async (): Promise<void> => {
    const log = openSync(logFile, 'a');
    const { PATH, HOME, TMPDIR } = process.env;
    child = spawn(program, ['-logtostderr=true', ...args], {
      cwd: folder,
      env: { PATH, HOME, TMPDIR },
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    for (let left = 600; !(await answers(endpoint)); left -= 1) {
      if (child.exitCode !== null || left === 0)
        throw new Error(`The S3 server did not start:\n${readFileSync(logFile, 'utf8').slice(-4000)}`);
      await sleep(100);
    }
  };
  const kill = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL'); // its own end takes ten seconds
    await ended;
  };
  await start();
  return {
    endpoint,
    async restart(pauseMs = 0) {
      await kill();
      await sleep(pauseMs);
      await start();
    },
    async stop() {
      await kill();
      // it makes these wherever TMPDIR is
      for (const [name, port] of Object.entries(ports))
        rmSync(`/tmp/seaweedfs-${name.split('.')[0]}-grpc-${port}.sock`, { force: true });
    },
  };
}

const clientOf = (endpoint: string): S3Client =>
  new S3Client({
    endpoint,
    region: 'us-east-1',
    forcePathStyle: true,
    maxAttempts: 1,
    credentials: {
      accessKeyId: s3Credentials.AWS_ACCESS_KEY_ID,
      secretAccessKey: s3Credentials.AWS_SECRET_ACCESS_KEY,
    },
  });

/** True when it takes writes: it listens before its parts have found each other. */
async function answers(endpoint: string): Promise<boolean> {
  const client = clientOf(endpoint);
  try {
    await client.send(new CreateBucketCommand({ Bucket: 'probe' }));
    return true;
  } catch (error) {
    return /^BucketAlready/.test((error as Error).name);
  } finally {
    client.destroy();
  }
}

export interface TestBucket extends S3Place {
  endpoint: string;
  /** for what a test looks at past the store */
  client: S3Client;
  /** of a process that keeps its artifacts here */
  env: NodeJS.ProcessEnv;
}

/** The server of this test run, or one for this file; null, and the test is skipped, where there is none. */
export async function useS3Server(t: Test): Promise<string | null> {
  if (process.env.FINEGRAIN_TEST_S3) return process.env.FINEGRAIN_TEST_S3;
  return (await ownS3Server(t))?.endpoint ?? null;
}

/** One that the test may kill. */
export async function ownS3Server(t: Test): Promise<S3Server | null> {
  const program = s3Program();
  if (program === null) return null;
  const folder = await mkdtemp(join(tmpdir(), 'finegrain-s3-'));
  const server = await startS3Server(program, folder);
  t.teardown(async () => {
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  });
  return server;
}

/** A new bucket. The SDK finds its credentials in this process's environment from now on. */
export async function createBucket(t: Test, endpoint: string): Promise<TestBucket> {
  const client = clientOf(endpoint);
  const bucket = `test-${randomUUID()}`;
  await client.send(new CreateBucketCommand({ Bucket: bucket }));
  Object.assign(process.env, s3Credentials);
  t.teardown(() => client.destroy());
  return {
    bucket,
    prefix: 'some/where/',
    endpoint,
    region: 'us-east-1',
    pathStyle: true,
    client,
    env: {
      ...s3Credentials,
      AWS_ENDPOINT_URL_S3: endpoint,
      FINEGRAIN_ARTIFACTS: `s3://${bucket}/some/where`,
    },
  };
}
