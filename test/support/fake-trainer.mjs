// A program that speaks the trainer's protocol and behaves as the prompt of its first input row tells: a real child
// process, for what a real trainer does too rarely or too slowly. Called as `… -m finegrain_trainer KIND --spec FILE …`.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

if (process.argv[2] === '-c') process.exit(); // the runner asks whether the package is there

const argument = (name) => process.argv[process.argv.indexOf(name) + 1];
const workdir = argument('--workdir');
const spec = JSON.parse(readFileSync(argument('--spec'), 'utf8'));
const rows = readFileSync(join(argument('--spec'), '..', Object.values(spec.data)[0]), 'utf8');
const [behaviour, ...details] = JSON.parse(rows.split('\n')[0]).prompt.split(' = ');

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const digestOf = (text) => `sha256:${createHash('sha256').update(text).digest('hex')}`;

process.stdin.on('end', () => stop('the life line closed'));
process.stdin.resume();
process.on('SIGTERM', () => stop('SIGTERM'));

let step = 0;
function stop(why) {
  process.stderr.write(`stopping: ${why}\n`);
  checkpoint();
  process.exit(75);
}

function checkpoint() {
  const path = `checkpoints/step-${String(step).padStart(8, '0')}`;
  if (existsSync(join(workdir, path))) return;
  const aside = join(workdir, 'checkpoints', '.writing');
  mkdirSync(aside, { recursive: true });
  const manifest = JSON.stringify({ step });
  writeFileSync(join(aside, 'manifest.json'), manifest);
  writeFileSync(join(aside, 'state.json'), String(step));
  renameSync(aside, join(workdir, path));
  say({ type: 'checkpoint', step, path, digest: digestOf(manifest) });
}

function succeed(result = {}, metrics = { validation_loss: 1.5 }) {
  const role = spec.kind === 'reward' ? 'token_reward' : 'policy';
  const folder = join(workdir, 'output', 'model');
  mkdirSync(folder, { recursive: true });
  const names = ['config.json', 'model.safetensors', 'tokenizer.json', 'finegrain.json'];
  if (role === 'token_reward') names.push('reward.onnx', 'golden.json');
  for (const name of names) writeFileSync(join(folder, name), `${name} of ${behaviour}`);
  writeFileSync(join(workdir, 'output', 'notes.txt'), 'notes');
  say({ type: 'artifact', name: 'notes.txt', path: 'output/notes.txt', media_type: 'text/plain' });
  say({ type: 'model', role, path: 'output/model', metrics });
  say({ type: 'result', result });
  process.exitCode = 0;
  process.stdin.destroy();
}

/** 60 steps, 50 ms each, a checkpoint after every fifth; goes on from the newest one. */
function work() {
  const folder = join(workdir, 'checkpoints');
  const newest = existsSync(folder) ? readdirSync(folder).sort().at(-1) : undefined;
  const from = newest ? Number(readFileSync(join(folder, newest, 'state.json'), 'utf8')) : 0;
  step = from;
  const timer = setInterval(() => {
    step += 1;
    say({ type: 'progress', step, total_steps: 60, stage: 'train' });
    if (step % 5 === 0) checkpoint();
    if (step < 60) return;
    clearInterval(timer);
    succeed({ resumed_from: from });
  }, 50);
}

const behaviours = {
  succeed: () => succeed(),
  'succeed without model'() {
    say({ type: 'result', result: {} });
    process.stdin.destroy();
  },
  work,
  measure: () =>
    succeed(
      {
        rows: rows
          .trimEnd()
          .split('\n')
          .map((row) => JSON.parse(row)),
      },
      JSON.parse(details[0]),
    ),
  talk() {
    process.stdout.write('this is no JSON\n{"type":"unheard of"}\n\n');
    process.stdout.write('{"type":"log","level":"info","message":"NUL \\u0000 and surrogate \\ud800 end"}\n');
    process.stdout.write(`{"type":"log","level":"info","message":"${'x'.repeat(2 ** 21)}"}\n`);
    say({ type: 'alarm', code: 'odd', detail: 'd', step: 1, value: 2, threshold: 3 });
    for (let n = 1; n <= 1000; n++) {
      say({ type: 'progress', step: n, total_steps: 1000, stage: 'train' });
      say({ type: 'metrics', step: n, values: { loss: 1 / n, none: null } });
    }
    succeed({ text: 'a\u0000b' });
  },
  crash() {
    for (let n = 1; n <= 60; n++) process.stderr.write(`line ${n}\n`);
    process.exitCode = 3;
    process.stdin.destroy();
  },
  fail() {
    say({ type: 'failure', reason: 'unstable', detail: 'The loss is no number.' });
    process.exitCode = 1;
    process.stdin.destroy();
  },
  die: () => process.kill(process.pid, 'SIGKILL'),
  'no result': () => process.exit(0),
  'no model'() {
    say({ type: 'result', result: {} });
    process.exitCode = 0;
    process.stdin.destroy();
  },
  escape() {
    say({
      type: 'artifact',
      name: 'passwd',
      path: '../../../../../../../../etc/passwd',
      media_type: 'text/plain',
    });
    succeed();
  },
  environment: () => succeed({ environment: process.env }),
  'leave a child'() {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
    say({ type: 'log', level: 'info', message: String(child.pid) });
    setTimeout(() => process.exit(5), 300);
  },
  deaf() {
    process.removeAllListeners('SIGTERM');
    process.on('SIGTERM', () => {});
    say({ type: 'progress', step: 1, total_steps: 2, stage: 'train' });
  },
};
say({ type: 'progress', step: 0, total_steps: 1, stage: 'load' });
say({ type: 'log', level: 'info', message: `pid ${process.pid}` });
behaviours[behaviour]();
