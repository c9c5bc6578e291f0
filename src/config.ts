// The only reader of process.env. Everything else receives what it needs.
import { isIP } from 'node:net';
import { availableParallelism, totalmem } from 'node:os';
import { resolve } from 'node:path';
import type { ScoringProvider } from './scoring/scorer-processes.ts';
import type { ArtifactPlace } from './storage/artifact-place.ts';

export interface Config {
  host: string;
  port: number;
  /** null: embedded Postgres in the data folder */
  databaseUrl: string | null;
  /** for what a transaction pooler cannot carry: migrations, worker, runner */
  databaseDirectUrl: string | null;
  dataDir: string;
  /** the bootstrap admin key; null: made once and kept in the data folder */
  apiKey: string | null;
  /** encrypts secrets, 32 bytes; null: none was given */
  secretKey: Buffer | null;
  /** keys that were FINEGRAIN_SECRET_KEY before, for reading what they encrypted */
  previousSecretKeys: Buffer[];
  /** addresses, CIDR ranges and host names that webhooks may reach although they are not public */
  outgoingAllow: string[];
  /** whose scripts may read answers (CORS): exact origins, or `*` alone; none by default */
  corsOrigins: string[];
  /** that GET /metrics asks for; null: none */
  metricsKey: string | null;
  /** between the wish to stop, when /readyz turns to 503, and the refusal of new connections */
  drainSeconds: number;
  artifacts: ArtifactPlace;
  /** of what is fetched from a bucket to be opened as files */
  artifactCache: { folder: string; bytes: number };
  /** what the worker removes from the artifact store, and when; crontab null: never */
  artifactCollection: { crontab: string | null; graceHours: number };
  logLevel: string;
  /** per minute and process: requests of one key, failed authentications of one address; 0: no limit */
  rateLimits: { requestsPerMinute: number; authFailuresPerMinute: number };
  /** addresses and networks of the proxies whose X-Forwarded-For is believed */
  trustProxy: string[];
  /** what of runs is removed in time; 0: nothing */
  runRetention: {
    checkpoints: number;
    checkpointDays: number;
    lastCheckpointDays: number;
    rolloutDays: number;
    eventDays: number;
  };
  /** how many processes score at a time, the memory of all that there are, and what they compute on */
  scoring: { maxScorers: number; memoryBytes: number; provider: ScoringProvider };
  runner: RunnerConfig;
  /** how many of them the embedded mode starts; each takes one run at a time */
  embeddedRunners: number;
}

export interface RunnerConfig {
  name: string;
  hardware: string[];
  labels: string[];
  leaseSeconds: number;
  pollSeconds: number;
  /** a trainer that says nothing for as long is taken to hang */
  silenceSeconds: number;
  python: string;
  /** all that the trainer sees of this environment: never the database's URL, never a key */
  trainerEnvironment: Record<string, string>;
}

/** @throws Error that names the variable and what it should hold */
export function readConfig(env: NodeJS.ProcessEnv = process.env): Config {
  const dataDir = resolve(env.FINEGRAIN_DATA_DIR || '.finegrain');
  const databaseUrl = env.DATABASE_URL || null;
  const apiKey = env.FINEGRAIN_API_KEY || null;
  if (apiKey !== null && !/^[\x21-\x7e]{16,}$/.test(apiKey))
    throw new Error('FINEGRAIN_API_KEY must have at least 16 characters, all of ASCII and none a space.');
  const metricsKey = env.FINEGRAIN_METRICS_KEY || null;
  if (metricsKey !== null && !/^[\x21-\x7e]{16,}$/.test(metricsKey))
    throw new Error('FINEGRAIN_METRICS_KEY must have at least 16 characters, all of ASCII and none a space.');
  return {
    host: env.HOST || (databaseUrl ? '0.0.0.0' : '127.0.0.1'),
    port: integer(env, 'PORT', 3000, 0, 65535),
    databaseUrl,
    databaseDirectUrl: env.DATABASE_DIRECT_URL || databaseUrl,
    dataDir,
    apiKey,
    secretKey: env.FINEGRAIN_SECRET_KEY
      ? readSecretKey('FINEGRAIN_SECRET_KEY', env.FINEGRAIN_SECRET_KEY)
      : null,
    previousSecretKeys: list(env.FINEGRAIN_SECRET_KEY_PREVIOUS).map((key) =>
      readSecretKey('FINEGRAIN_SECRET_KEY_PREVIOUS', key),
    ),
    outgoingAllow: list(env.FINEGRAIN_OUTGOING_ALLOW),
    corsOrigins: origins(env, 'FINEGRAIN_CORS_ORIGINS'),
    metricsKey,
    // nobody balances over an embedded service
    drainSeconds: integer(env, 'FINEGRAIN_DRAIN_SECONDS', databaseUrl ? 5 : 0, 0, 600),
    artifacts: artifactPlace(env, `${dataDir}/artifacts`),
    artifactCache: {
      folder: `${dataDir}/artifact-cache`,
      bytes: integer(env, 'FINEGRAIN_ARTIFACT_CACHE_MB', 20_000, 0, 1_000_000_000) * 1_000_000,
    },
    artifactCollection: {
      crontab: collectionTimes(env),
      graceHours: integer(env, 'FINEGRAIN_ARTIFACT_GRACE_HOURS', 24, 0, 100_000),
    },
    logLevel: choice(env, 'LOG_LEVEL', 'info', [
      'fatal',
      'error',
      'warn',
      'info',
      'debug',
      'trace',
      'silent',
    ]),
    rateLimits: {
      requestsPerMinute: integer(env, 'FINEGRAIN_RATE_LIMIT', 60_000, 0, 1_000_000_000),
      authFailuresPerMinute: integer(env, 'FINEGRAIN_AUTH_FAILURES', 60, 0, 1_000_000_000),
    },
    trustProxy: trustedProxies(env),
    runRetention: {
      checkpoints: integer(env, 'FINEGRAIN_KEEP_CHECKPOINTS', 3, 0, 1_000_000),
      checkpointDays: integer(env, 'FINEGRAIN_CHECKPOINT_DAYS', 7, 0, 36_500),
      lastCheckpointDays: integer(env, 'FINEGRAIN_LAST_CHECKPOINT_DAYS', 90, 0, 36_500),
      rolloutDays: integer(env, 'FINEGRAIN_ROLLOUT_DAYS', 30, 0, 36_500),
      eventDays: integer(env, 'FINEGRAIN_EVENT_DAYS', 30, 0, 36_500),
    },
    scoring: {
      maxScorers: integer(env, 'FINEGRAIN_SCORERS', availableParallelism(), 1, 1024),
      memoryBytes: integer(env, 'FINEGRAIN_SCORING_MEMORY_MB', halfTheMemory(), 1, 100_000_000) * 1_000_000,
      provider: scoringProvider(env),
    },
    embeddedRunners: integer(env, 'FINEGRAIN_RUNNERS', 1, 0, 64),
    runner: {
      name: env.FINEGRAIN_RUNNER_NAME || `${env.HOSTNAME || 'runner'}-${process.pid}`,
      hardware: (env.FINEGRAIN_RUNNER_HARDWARE || 'cpu').split(','),
      labels: list(env.FINEGRAIN_RUNNER_LABELS),
      leaseSeconds: integer(env, 'FINEGRAIN_LEASE_SECONDS', 60, 2, 3600),
      pollSeconds: integer(env, 'FINEGRAIN_POLL_SECONDS', 10, 1, 3600),
      silenceSeconds: integer(env, 'FINEGRAIN_TRAINER_SILENCE_SECONDS', 300, 3, 86_400),
      python: env.FINEGRAIN_PYTHON || `${dataDir}/python/bin/python`,
      trainerEnvironment: {
        ...trainerEnvironment(env),
        FINEGRAIN_TRAINER_THREADS: String(integer(env, 'FINEGRAIN_TRAINER_THREADS', 1, 1, 1024)),
        FINEGRAIN_TRAINER_PROCESSES: String(integer(env, 'FINEGRAIN_TRAINER_PROCESSES', 1, 1, 64)),
      },
    },
  };
}

/** Of what this process may use, which in a container is less than the machine has; megabytes. */
const halfTheMemory = (): number =>
  Math.floor(Math.min(totalmem(), process.constrainedMemory() || totalmem()) / 2_000_000);

export interface ConfigInspection {
  /** with the defaults in place of what is wrong */
  config: Config;
  /** one message for each variable that is wrong */
  wrong: string[];
  /** the names of the variables that are read here */
  known: Set<string>;
  /** the names that the environment has */
  given: string[];
  /** what must never be printed */
  secrets: string[];
}

/** For `finegrain doctor`: all that is wrong at once, where `readConfig` stops at the first. */
export function inspectConfig(env: NodeJS.ProcessEnv = process.env): ConfigInspection {
  const rest = { ...env };
  const wrong: string[] = [];
  for (;;) {
    try {
      const config = readConfig(rest);
      return { config, wrong, known: variableNames(), given: Object.keys(env), secrets: secretsOf(env) };
    } catch (error) {
      const { message } = error as Error;
      const name = Object.keys(rest).find((name) => message.startsWith(`${name} `));
      if (name === undefined) throw error;
      wrong.push(message);
      delete rest[name];
    }
  }
}

/** Reads an environment without variables and notes what is asked of it. */
function variableNames(): Set<string> {
  const names = new Set<string>();
  const note = (_env: object, name: string | symbol): undefined => void names.add(String(name));
  readConfig(new Proxy({}, { get: note }));
  return names;
}

function secretsOf(env: NodeJS.ProcessEnv): string[] {
  const urls = [env.DATABASE_URL, env.DATABASE_DIRECT_URL].filter((url) => url && URL.canParse(url));
  const passwords = urls.flatMap((text) => {
    const url = new URL(text!);
    return [url.password, unquote(url.password), url.searchParams.get('password')];
  });
  const keys = Object.entries(env).flatMap(([name, value]) =>
    /^(FINEGRAIN_.*KEY|AWS_(SECRET_ACCESS_KEY|SESSION_TOKEN)$)/.test(name) ? value : [],
  );
  return [...passwords, ...keys].filter((secret): secret is string => Boolean(secret));
}

function unquote(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a % that stands for itself
  }
}

// where programs, libraries, caches and devices are; proxies and certificates serve the download of hub models
const passedOn =
  /^(PATH|HOME|LANG|LC_[A-Z]+|TZ|TMPDIR|USER|LD_LIBRARY_PATH|OMP_\w+|MKL_\w+|CUDA_\w+|NVIDIA_\w+|PYTORCH_\w+|HF_HOME|HF_ENDPOINT|SSL_CERT_FILE|SSL_CERT_DIR|(https?|no)_proxy)$/i;

function trainerEnvironment(env: NodeJS.ProcessEnv): Record<string, string> {
  const listed = Object.entries(env).filter(([name, value]) => value !== undefined && passedOn.test(name));
  return Object.fromEntries(listed) as Record<string, string>;
}

/** A process on a GPU has to find libraries and devices; one on CPU needs nothing of this environment. */
function scoringProvider(env: NodeJS.ProcessEnv): ScoringProvider {
  const name = choice(env, 'FINEGRAIN_SCORING_PROVIDER', 'cpu', ['cpu', 'cuda']);
  if (name === 'cpu') return { name, environment: {} };
  const listed = Object.entries(env).filter(([key]) => /^(LD_LIBRARY_PATH|CUDA_\w+|NVIDIA_\w+)$/.test(key));
  return { name, environment: Object.fromEntries(listed) as Record<string, string> };
}

const list = (text = ''): string[] =>
  text
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '');

/** @throws Error that names where the key came from, but not the key */
export function readSecretKey(source: string, text: string): Buffer {
  const key = Buffer.from(text, 'base64');
  if (key.length !== 32 || key.toString('base64') !== text)
    throw new Error(`${source} must hold 32 random bytes in base64: openssl rand -base64 32.`);
  return key;
}

/** Exact origins as browsers send them, or `*` alone. */
function origins(env: NodeJS.ProcessEnv, name: string): string[] {
  const given = list(env[name]);
  const wrong = given.find((origin) => (origin === '*' ? given.length > 1 : !isOrigin(origin)));
  if (wrong === undefined) return given;
  throw new Error(
    `${name} must be a comma list of origins such as https://app.example.org, or * alone, not ${JSON.stringify(wrong)}.`,
  );
}

const isOrigin = (text: string): boolean => URL.canParse(text) && new URL(text).origin === text;

// the names that Fastify knows for networks
const networkNames = ['loopback', 'linklocal', 'uniquelocal'];

function trustedProxies(env: NodeJS.ProcessEnv): string[] {
  const networks = (env.FINEGRAIN_TRUST_PROXY || '').split(',').map((network) => network.trim());
  for (const network of networks) {
    const [address = '', bits = '0', ...rest] = network.split('/');
    const maximum = { 0: -1, 4: 32, 6: 128 }[isIP(address)]!;
    const isNetwork = rest.length === 0 && /^\d+$/.test(bits) && Number(bits) <= maximum;
    // a number of hops is not taken, since a client that comes past the proxy could then name any address (Fastify 5.12)
    if (network !== '' && !isNetwork && !networkNames.includes(network))
      throw new Error(
        `FINEGRAIN_TRUST_PROXY must list the addresses or networks of your proxies, like 10.0.0.0/8, or ${networkNames.join(', ')}, not ${JSON.stringify(network)}.`,
      );
  }
  return networks.filter((network) => network !== '');
}

/** Credentials are the SDK's to find, in its own variables, profile or machine. */
function artifactPlace(env: NodeJS.ProcessEnv, byDefault: string): ArtifactPlace {
  const text = env.FINEGRAIN_ARTIFACTS || byDefault;
  const endpoint = env.AWS_ENDPOINT_URL_S3 || env.AWS_ENDPOINT_URL || null;
  const region = env.AWS_REGION || env.AWS_DEFAULT_REGION || null;
  const style = choice(env, 'FINEGRAIN_S3_PATH_STYLE', endpoint === null ? 'false' : 'true', [
    'true',
    'false',
  ]);
  if (!text.includes('://')) return { folder: resolve(text) };
  const [, bucket, prefix = ''] =
    /^s3:\/\/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:\/([\w./-]*))?$/.exec(text) ?? [];
  if (bucket === undefined || prefix.startsWith('/') || prefix.includes('//'))
    throw new Error(
      `FINEGRAIN_ARTIFACTS must be a folder or s3://BUCKET/PREFIX, not ${JSON.stringify(text)}.`,
    );
  return {
    bucket,
    prefix: prefix === '' || prefix.endsWith('/') ? prefix : `${prefix}/`,
    endpoint,
    // servers that are not Amazon's mostly have none, but the signature needs one
    region: region ?? (endpoint === null ? null : 'us-east-1'),
    pathStyle: style === 'true',
  };
}

function collectionTimes(env: NodeJS.ProcessEnv): string | null {
  const text = env.FINEGRAIN_ARTIFACT_COLLECTION || '37 3 * * *';
  if (text === 'off') return null;
  if (/^([\d*,/-]+ ){4}[\d*,/-]+$/.test(text)) return text;
  throw new Error(
    `FINEGRAIN_ARTIFACT_COLLECTION must be five fields as in a crontab, in UTC, or off, not ${JSON.stringify(text)}.`,
  );
}

function integer(
  env: NodeJS.ProcessEnv,
  name: string,
  fallback: number,
  minimum: number,
  maximum: number,
): number {
  const text = env[name];
  if (!text) return fallback;
  const value = Number(text);
  if (!Number.isInteger(value) || value < minimum || value > maximum) {
    throw new Error(
      `${name} must be a whole number from ${minimum} to ${maximum}, not ${JSON.stringify(text)}.`,
    );
  }
  return value;
}

function choice<Choice extends string>(
  env: NodeJS.ProcessEnv,
  name: string,
  fallback: NoInfer<Choice>,
  choices: Choice[],
): Choice {
  const value = env[name] || fallback;
  const known = choices.find((one) => one === value);
  if (known === undefined)
    throw new Error(`${name} must be one of ${choices.join(', ')}, not ${JSON.stringify(value)}.`);
  return known;
}
