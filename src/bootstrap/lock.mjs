// One set-up at a time: a lock file that holds the pid and the start time of its owner. A lock whose owner is gone
// is taken over.
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { say } from './steps.mjs';

const pollMs = 300;
const unwrittenMs = 5_000; // an empty lock file is one that is being written, unless it stays so

/** Runs `work` while no other process runs work under the same lock file. */
export async function withLock(file, work) {
  mkdirSync(path.dirname(file), { recursive: true });
  let told = false;
  while (!take(file)) {
    const owner = readLock(file);
    if (owner === null) continue; // released a moment ago
    if (isStale(file, owner)) remove(file, owner);
    else {
      if (!told)
        say(`Another finegrain process (pid ${owner.split(' ')[0]}) is setting this up: waiting for it.`);
      told = true;
      await sleep(pollMs);
    }
  }
  const release = () => rmSync(file, { force: true });
  process.once('exit', release);
  try {
    return await work();
  } finally {
    process.off('exit', release);
    release();
  }
}

function take(file) {
  try {
    writeFileSync(file, identityOf(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (error.code === 'EEXIST') return false;
    throw error;
  }
}

function readLock(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return null;
    throw error;
  }
}

function isStale(file, owner) {
  if (owner !== '') return !isAlive(owner);
  return Date.now() - (statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0) > unwrittenMs;
}

/** Only the stale lock itself, never the one that another process has taken in its place meanwhile. */
function remove(file, owner) {
  const aside = `${file}.${process.pid}`;
  try {
    renameSync(file, aside);
  } catch (error) {
    if (error.code === 'ENOENT') return;
    throw error;
  }
  if (readFileSync(aside, 'utf8') === owner) rmSync(aside);
  else renameSync(aside, file);
}

/** Names a process so that a later one with the same pid is told from it, where the system says when it started. */
export function identityOf(pid) {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (error.code !== 'EPERM') return `${pid} ended`;
  }
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return `${pid} ${stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]}`; // proc(5): field 22
  } catch {
    return `${pid} runs`; // no /proc: the pid alone must do
  }
}

/** @param identity what `identityOf` said earlier */
export function isAlive(identity) {
  return identityOf(Number.parseInt(identity, 10)) === identity;
}
