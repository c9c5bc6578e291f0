// One attempt of a run, from its claim to its end: prepare the work folder, watch the trainer, hand in what it made.
// Whatever happens, no trainer and no folder is left behind, and after the lease is lost nothing more is written.
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { isDatabaseUnreachable, isRolledBack } from '../services/database-errors.ts';
import {
  finishWithout,
  type HeldRun,
  heartbeat,
  type LogReport,
  type RunnerServices,
  reportEvents,
  reportLog,
  restoreCheckpoint,
  saveCheckpoint,
  saveRollouts,
} from '../services/run-execution.ts';
import { finishSucceeded, type TrainerOutputs } from '../services/run-outcome.ts';
import { prepareRun } from '../services/run-preparation.ts';
import type { RunFailure } from '../services/runs.ts';
import { type EventQueue, openEventQueue } from './event-queue.ts';
import { locateHubModel } from './hub.ts';
import { holdLease } from './lease.ts';
import { countOomKills } from './oom-kills.ts';
import { progressEstimator } from './progress.ts';
import { openTrainerLog, type TrainerLog } from './trainer-log.ts';
import { startTrainer, type Trainer, type TrainerExit } from './trainer-process.ts';
import { parseTrainerLine, type TrainerLine } from './trainer-protocol.ts';
import { isTrouble, troubleOf } from './trouble.ts';
import { workFolderOf } from './work-folders.ts';

export interface AttemptSettings {
  leaseSeconds: number;
  /** a trainer that says nothing for as long is killed */
  silenceSeconds: number;
  python: string;
  /** what the trainer may see of the runner's environment */
  trainerEnvironment: Record<string, string>;
  /** parent of the work folders */
  workFolders: string;
}

/** gave_up: for reasons of this machine, another attempt may do better; lost: the run belongs to another attempt. */
export type AttemptEnd = 'succeeded' | 'failed' | 'cancelled' | 'interrupted' | 'paused' | 'gave_up' | 'lost';

/** how long a trainer may take for its last checkpoint; it ends itself after 20 s */
const graceMs = 22_000;
const exitInterrupted = 75;
/** between tries of what the database or the artifact store does not take at the moment */
const retryMs = 1000;

/** What the trainer has said so far that matters at the end. */
interface Heard {
  result: object | null;
  failure: { reason: string; detail: string } | null;
  model: TrainerOutputs['model'];
  artifacts: TrainerOutputs['artifacts'];
}

/**
 * @param stop aborted when the runner is asked to stop: the trainer keeps a checkpoint and the run is queued again
 */
export async function executeAttempt(
  services: RunnerServices,
  settings: AttemptSettings,
  run: HeldRun,
  stop: AbortSignal,
  log: Logger,
): Promise<AttemptEnd> {
  const halt = haltSwitch();
  const onStop = () => halt.turn('interrupted');
  stop.addEventListener('abort', onStop);
  if (stop.aborted) onStop();
  const release = holdLease({
    leaseSeconds: settings.leaseSeconds,
    heartbeat: () => heartbeat(services, run, settings.leaseSeconds),
    onDesiredState: (state) => {
      if (state === 'cancelled' || state === 'paused') halt.turn(state);
    },
    onLost: (why) => {
      log.warn({ why }, 'the run is lost to this runner');
      halt.turn('lost');
    },
    onError: (error) => log.warn({ err: error }, 'the lease could not be renewed'),
  });
  const timeLimit = holdTimeLimit(run.secondsLeft, () => halt.turn('time_limit'));
  const workFolder = workFolderOf(settings.workFolders, { runId: run.id, fence: run.fence });
  try {
    return await attempt(services, settings, run, workFolder, halt, log);
  } finally {
    release();
    clearTimeout(timeLimit);
    stop.removeEventListener('abort', onStop);
    await rm(workFolder, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** A timer; one that would be longer than Node's can be is set again by the attempt after a loss or a pause. */
function holdTimeLimit(seconds: number | null, onEnd: () => void): NodeJS.Timeout | undefined {
  if (seconds === null) return undefined;
  return setTimeout(onEnd, Math.min(Math.max(0, seconds) * 1000, 2 ** 31 - 1));
}

type HaltReason = 'interrupted' | 'paused' | 'time_limit' | 'cancelled' | 'lost';

/** Why the attempt must end early; a graver reason replaces a milder one. */
function haltSwitch() {
  const order: (HaltReason | null)[] = [null, 'interrupted', 'paused', 'time_limit', 'cancelled', 'lost'];
  let reason: HaltReason | null = null;
  const listeners: (() => void)[] = [];
  return {
    get reason(): HaltReason | null {
      return reason;
    },
    turn(next: HaltReason): void {
      if (order.indexOf(next) <= order.indexOf(reason)) return;
      reason = next;
      for (const listener of listeners) listener();
    },
    /** Called at each change of the reason, and now if there is one. */
    onTurn(listener: () => void): void {
      listeners.push(listener);
      if (reason) listener();
    },
  };
}
type HaltSwitch = ReturnType<typeof haltSwitch>;

async function attempt(
  services: RunnerServices,
  settings: AttemptSettings,
  run: HeldRun,
  workFolder: string,
  halt: HaltSwitch,
  log: Logger,
): Promise<AttemptEnd> {
  const end = (
    outcome: Exclude<AttemptEnd, 'lost' | 'gave_up' | 'succeeded'>,
    failure: RunFailure | null = null,
  ) => untilWritten(halt, log, outcome, () => finishWithout(services, run, outcome, failure));
  const giveUp = (failure: RunFailure) => {
    log.warn({ failure }, 'the attempt is given up');
    return untilWritten(halt, log, 'gave_up', () => finishWithout(services, run, 'lost', failure));
  };
  const endHalted = () => {
    if (halt.reason === 'lost') return 'lost';
    if (halt.reason === 'time_limit') return end('failed', outOfTime);
    return end(halt.reason!);
  };

  let specPath: string;
  try {
    const locate = (hub: string, revision: string) =>
      locateHubModel(settings.python, settings.trainerEnvironment, hub, revision);
    specPath = await whileTrouble(['artifact_store'], halt, log, async () => {
      await rm(workFolder, { recursive: true, force: true, maxRetries: 3 });
      await mkdir(workFolder, { recursive: true });
      const path = await prepareRun(services, run, workFolder, locate);
      await restoreCheckpoint(services, run, workFolder);
      return path;
    });
  } catch (error) {
    if (halt.reason) return endHalted();
    const trouble = troubleOf(error);
    if (trouble) return giveUp(plainFailure(trouble.reason, trouble.detail));
    log.warn({ err: error }, 'the inputs of the run could not be prepared');
    return end('failed', plainFailure('inputs', (error as Error).message));
  }
  if (halt.reason) return endHalted();

  const trainerLog = openTrainerLog(join(workFolder, 'trainer.log'));
  const shipping = shipLog(services, run, trainerLog, halt, log);
  const oomKillsBefore = await countOomKills();
  const trainer = startTrainer({
    python: settings.python,
    silenceSeconds: settings.silenceSeconds,
    args: [run.kind, '--spec', specPath, '--workdir', workFolder, '--device', run.hardware, '--supervised'],
    environment: settings.trainerEnvironment,
    workFolder,
    onLogLine: trainerLog.add,
  });
  halt.onTurn(() => (halt.reason === 'lost' ? trainer.kill() : trainer.terminate(graceMs)));
  try {
    const { heard, exit } = await watch(services, run, workFolder, trainer, trainerLog, halt, log);
    await shipping.end();
    if (halt.reason === 'lost' || halt.reason === 'cancelled') return await endHalted();
    // a trainer that was told to stop when it had all but ended has ended well
    const { result, model, artifacts } = heard;
    if (exit.code === 0 && result) {
      return await untilWritten(halt, log, 'succeeded', () =>
        whileTrouble(['artifact_store', 'disk_full'], halt, log, () =>
          finishSucceeded(services, run, workFolder, { result, model, artifacts }),
        ),
      );
    }
    if (halt.reason) return await endHalted();
    if (exit.code === exitInterrupted) return await end('interrupted');
    const oomKills = await countOomKills();
    const outOfMemory = oomKillsBefore !== null && oomKills !== null && oomKills > oomKillsBefore;
    const failure = explain(exit, heard, trainer.logTail(), outOfMemory);
    return await (isTrouble(failure) ? giveUp(failure) : end('failed', failure));
  } catch (error) {
    if (halt.reason) return await endHalted();
    const trouble = troubleOf(error);
    if (trouble) return await giveUp(plainFailure(trouble.reason, trouble.detail));
    log.warn({ err: error }, 'the outputs of the run could not be taken');
    return await end('failed', {
      ...plainFailure('outputs', (error as Error).message),
      log_tail: trainer.logTail(),
    });
  } finally {
    trainer.kill();
    shipping.stop();
  }
}

/** Reads the trainer's output to its end, passing on what it says; resolves when all of that is written. */
async function watch(
  services: RunnerServices,
  run: HeldRun,
  workFolder: string,
  trainer: Trainer,
  trainerLog: TrainerLog,
  halt: HaltSwitch,
  log: Logger,
): Promise<{ heard: Heard; exit: TrainerExit }> {
  const events = openEventQueue(
    async (events, batch) => {
      const held = await reportEvents(services, run, batch, events);
      if (!held) halt.turn('lost');
      return held;
    },
    (error) => log.warn({ err: error }, 'events could not be reported, trying again'),
  );
  halt.onTurn(() => {
    if (halt.reason === 'lost') events.close();
  });
  const checkpoints = checkpointUploads(services, run, workFolder, halt, log);
  const rollouts = rolloutUploads(services, run, workFolder, halt, log);
  const estimate = progressEstimator(() => performance.now() / 1000);
  const heard: Heard = { result: null, failure: null, model: null, artifacts: [] };
  for await (const text of trainer.lines) {
    const line = text === null ? null : parseTrainerLine(text);
    if (line) await hear(line, heard, events, checkpoints.add, rollouts.add, trainerLog, estimate);
    else
      log.warn(
        { line: text?.slice(0, 300) ?? 'longer than a megabyte' },
        'not a line of the trainer protocol',
      );
  }
  const exit = await trainer.ended;
  await checkpoints.drain();
  await rollouts.drain();
  await events.drain();
  return { heard, exit };
}

async function hear(
  line: TrainerLine,
  heard: Heard,
  events: EventQueue,
  addCheckpoint: (checkpoint: Checkpoint) => void,
  addRollouts: (rollouts: Rollouts) => void,
  trainerLog: TrainerLog,
  estimate: ReturnType<typeof progressEstimator>,
): Promise<void> {
  switch (line.type) {
    case 'progress': {
      const progress = estimate(line);
      return progress ? events.add({ type: 'progress', ...progress }) : undefined;
    }
    case 'alarm':
      return events.add({
        ...line,
        step: line.step ?? null,
        value: line.value ?? null,
        threshold: line.threshold ?? null,
        action: line.action ?? 'warn',
      });
    case 'log':
      trainerLog.add(`${line.level}: ${line.message}`);
      return events.add(line);
    case 'metrics':
      return events.add(line);
    case 'checkpoint':
      return addCheckpoint(line);
    case 'rollouts':
      return addRollouts(line);
    case 'artifact':
      heard.artifacts.push({ name: line.name, path: line.path, media_type: line.media_type });
      return;
    case 'model':
      heard.model = { role: line.role, path: line.path, metrics: line.metrics };
      return;
    case 'result':
      heard.result = line.result;
      return;
    case 'failure':
      // the first one: of several processes, the others go on to say that one has gone
      heard.failure ??= { reason: line.reason, detail: line.detail };
      return;
  }
}

interface Checkpoint {
  step: number;
  path: string;
  digest: string;
}

const checkpointTries = 15;

/** Uploads one checkpoint at a time, always the newest; those that were overtaken meanwhile are left out. */
function checkpointUploads(
  services: RunnerServices,
  run: HeldRun,
  workFolder: string,
  halt: HaltSwitch,
  log: Logger,
) {
  let newest: Checkpoint | null = null;
  let upload: Promise<void> | null = null;
  const work = async (): Promise<void> => {
    let tries = 0;
    while (newest && halt.reason !== 'lost') {
      const checkpoint: Checkpoint = newest;
      newest = null;
      try {
        if (!(await saveCheckpoint(services, run, workFolder, checkpoint))) halt.turn('lost');
        tries = 0;
      } catch (error) {
        // a later one will do; the last one, after which the trainer ends, is worth waiting for a store that is away
        log.warn({ err: error, step: checkpoint.step }, 'a checkpoint could not be kept');
        const passes = troubleOf(error)?.reason === 'artifact_store' || isDatabaseUnreachable(error);
        if (!passes || ++tries > checkpointTries) continue;
        await sleep(retryMs);
        newest ??= checkpoint;
      }
    }
    upload = null;
  };
  return {
    add(checkpoint: Checkpoint): void {
      newest = checkpoint;
      upload ??= work();
    },
    async drain(): Promise<void> {
      await upload;
    },
  };
}

interface Rollouts {
  step: number;
  path: string;
  count: number;
}

/** Uploads one file after the other, and removes it from the work folder. */
function rolloutUploads(
  services: RunnerServices,
  run: HeldRun,
  workFolder: string,
  halt: HaltSwitch,
  log: Logger,
) {
  let uploads = Promise.resolve();
  const upload = async (rollouts: Rollouts): Promise<void> => {
    if (halt.reason === 'lost') return;
    try {
      if (!(await saveRollouts(services, run, workFolder, rollouts))) halt.turn('lost');
    } catch (error) {
      log.warn({ err: error, step: rollouts.step }, 'rollouts could not be kept');
    }
    await rm(join(workFolder, rollouts.path), { force: true });
  };
  return {
    add(rollouts: Rollouts): void {
      uploads = uploads.then(() => upload(rollouts));
    },
    drain: () => uploads,
  };
}

const logEveryMs = 2000;

/** Sends the newest lines of the trainer's log while there are new ones, and at its end the whole. */
function shipLog(
  services: RunnerServices,
  run: HeldRun,
  trainerLog: TrainerLog,
  halt: HaltSwitch,
  log: Logger,
) {
  let sent = 0;
  let sending: Promise<void> | null = null;
  const send = async (whole: LogReport['whole']): Promise<void> => {
    const lineCount = trainerLog.lineCount();
    try {
      if (!(await reportLog(services, run, { lineCount, newest: trainerLog.newest(), whole })))
        halt.turn('lost');
      sent = lineCount;
    } catch (error) {
      log.warn({ err: error }, 'the log of the trainer could not be kept');
    }
  };
  const timer = setInterval(() => {
    if (sending || trainerLog.lineCount() === sent || halt.reason === 'lost') return;
    sending = send(null).finally(() => {
      sending = null;
    });
  }, logEveryMs);
  return {
    async end(): Promise<void> {
      clearInterval(timer);
      await sending;
      const whole = await trainerLog.close();
      if (trainerLog.lineCount() > 0 && halt.reason !== 'lost') await send(whole);
    },
    stop: () => clearInterval(timer),
  };
}

/** Repeats a fenced write while the database cannot be reached and the lease lasts. */
async function untilWritten(
  halt: HaltSwitch,
  log: Logger,
  outcome: AttemptEnd,
  write: () => Promise<boolean>,
): Promise<AttemptEnd> {
  for (;;) {
    if (halt.reason === 'lost') return 'lost';
    try {
      return (await write()) ? outcome : 'lost';
    } catch (error) {
      if (!isDatabaseUnreachable(error) && !isRolledBack(error)) throw error;
      log.warn({ err: error }, 'the end of the run could not be written, trying again');
      await sleep(retryMs);
    }
  }
}

const troublePatienceMs = 15 * 60_000;

/** Repeats `work` through trouble of these kinds: at the end of a run, what is at stake may be days of training. */
async function whileTrouble<T>(
  kinds: string[],
  halt: HaltSwitch,
  log: Logger,
  work: () => Promise<T>,
): Promise<T> {
  for (const end = performance.now() + troublePatienceMs; ; ) {
    try {
      return await work();
    } catch (error) {
      const passes = kinds.includes(troubleOf(error)?.reason ?? '');
      if (!passes || halt.reason || performance.now() > end) throw error;
      log.warn({ err: error }, 'the artifact store cannot be used, trying again');
      await sleep(retryMs);
    }
  }
}

const outOfTime: RunFailure = {
  reason: 'time_limit',
  detail:
    'The run has been worked on for its time_limit_seconds. It has kept a checkpoint: a retry goes on from there, with the whole limit anew.',
  exit_code: null,
  log_tail: [],
};

function plainFailure(reason: string, detail: string): RunFailure {
  return { reason, detail, exit_code: null, log_tail: [] };
}

/** @param outOfMemory the kernel has ended a process for lack of memory meanwhile */
function explain(
  exit: TrainerExit,
  { failure, result }: Heard,
  log_tail: string[],
  outOfMemory: boolean,
): RunFailure {
  const rest = { exit_code: exit.code, log_tail };
  if (exit.error) {
    return { reason: 'crashed', detail: `The trainer could not be started: ${exit.error.message}.`, ...rest };
  }
  if (exit.hung) {
    return {
      reason: 'hung',
      detail:
        'The trainer said nothing for FINEGRAIN_TRAINER_SILENCE_SECONDS of its runner, which then ended it.',
      ...rest,
    };
  }
  if (failure) return { ...failure, ...rest };
  if (exit.signal === 'SIGKILL' && outOfMemory) {
    return {
      reason: 'out_of_memory',
      detail:
        'The kernel ended the trainer, as memory ran out. Smaller batch_size, or more minibatches, need less; or give the runner more memory.',
      ...rest,
    };
  }
  if (exit.signal) {
    const hint = exit.signal === 'SIGKILL' ? '; when nobody else did that, the system was out of memory' : '';
    return { reason: 'crashed', detail: `The trainer was ended by ${exit.signal}${hint}.`, ...rest };
  }
  if (exit.code === 0 && !result) {
    return { reason: 'protocol', detail: 'The trainer ended well but never told its result.', ...rest };
  }
  return {
    reason: 'crashed',
    detail: `The trainer ended with exit code ${exit.code} and did not say why.`,
    ...rest,
  };
}
