// The trainer by itself, killed at random instants and at random file operations of its checkpoints and outputs: it must leave
// the files of an undisturbed run, bit for bit. Written in Python, which starts a run in a tenth of a second.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { trainerPython } from '../support/runner.ts';
import type { Claim, SoakOptions } from './main.ts';

export async function soakUnderKills({ kills, seed, signal }: SoakOptions): Promise<Claim[]> {
  const python = trainerPython();
  if (python === null)
    return [{ holds: false, text: 'There is no Python for the trainer: set FINEGRAIN_PYTHON.' }];
  const soak = spawn(python, ['tests/soak.py', String(kills), String(seed)], {
    cwd: 'runners',
    env: {
      ...process.env,
      PYTHONPATH: '.',
      PYTHONDONTWRITEBYTECODE: '1',
      OMP_NUM_THREADS: '1',
      TQDM_DISABLE: '1',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    signal,
  });
  soak.on('error', () => {}); // how it ends is told below
  const complaints: string[] = [];
  soak.stderr.setEncoding('utf8').on('data', (text: string) => complaints.push(text));
  const claims: Claim[] = [];
  for await (const line of createInterface({ input: soak.stdout })) claims.push(JSON.parse(line));
  if (soak.exitCode === null && soak.signalCode === null) await once(soak, 'exit');
  if (soak.exitCode !== 0) console.log(complaints.join(''));
  return [
    ...claims,
    { holds: soak.exitCode === 0, text: `the trainer's soak ended with ${soak.exitCode ?? soak.signalCode}` },
  ];
}
