// A program that speaks the trainer's protocol and behaves as the prompt of its first input row tells: a real child
// process, for what a real trainer does too rarely or too slowly. Called as `… -m finegrain_trainer KIND --spec FILE …`.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

if (process.argv[2] === '-c') process.exit(); // the runner asks whether the package is there
if (process.argv[3] === 'finegrain_trainer.devices') {
  // it has the GPU that CUDA_VISIBLE_DEVICES names
  const name = process.env.CUDA_VISIBLE_DEVICES;
  const device = { name, memory_bytes: 2 ** 36, capability: '9.0', supported: true };
  const report = { torch: '0', cuda: '13.0', driver: '13.0', devices: [device], problem: null };
  const none = { ...report, driver: null, devices: [], problem: 'there is no NVIDIA driver' };
  process.stdout.write(JSON.stringify(name ? report : none));
  process.exit();
}

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

/** Stands for the weights: a function of all rows and of every step that was made, in order, by whatever process. */
let weights = digestOf('');

function checkpoint() {
  const path = `checkpoints/step-${String(step).padStart(8, '0')}`;
  if (existsSync(join(workdir, path))) return;
  const aside = join(workdir, 'checkpoints', '.writing');
  mkdirSync(aside, { recursive: true });
  const state = JSON.stringify({ step, weights });
  const manifest = JSON.stringify({ step, state: digestOf(state) });
  writeFileSync(join(aside, 'manifest.json'), manifest);
  writeFileSync(join(aside, 'state.json'), state);
  renameSync(aside, join(workdir, path));
  say({ type: 'checkpoint', step, path, digest: digestOf(manifest) });
}

function succeed(result = {}, metrics = { validation_loss: 1.5 }) {
  const role = spec.kind === 'reward' ? 'token_reward' : 'policy';
  const folder = join(workdir, 'output', 'model');
  mkdirSync(folder, { recursive: true });
  const names = ['config.json', 'model.safetensors', 'tokenizer.json', 'finegrain.json'];
  if (role === 'token_reward') names.push('reward.onnx', 'golden.json');
  for (const name of names) {
    const content = name === 'model.safetensors' ? weights : `${name} of ${behaviour}`;
    writeFileSync(join(folder, name), content);
  }
  writeFileSync(join(workdir, 'output', 'notes.txt'), 'notes');
  say({ type: 'artifact', name: 'notes.txt', path: 'output/notes.txt', media_type: 'text/plain' });
  say({ type: 'model', role, path: 'output/model', metrics });
  say({ type: 'result', result });
  process.exitCode = 0;
  process.stdin.destroy();
}

/**
 * Steps, a checkpoint after every fifth unless told otherwise; goes on from the newest one. Each step is said once, under
 * its number.
 */
function work({ steps = 60, ms = 50, every = 5 } = {}) {
  const folder = join(workdir, 'checkpoints');
  const kept = existsSync(folder) ? readdirSync(folder).filter((name) => name.startsWith('step-')) : [];
  const newest = kept.sort().at(-1);
  if (newest) ({ step, weights } = JSON.parse(readFileSync(join(folder, newest, 'state.json'), 'utf8')));
  const from = step;
  if (spec.finish_at_checkpoint) return succeed({ finished_at: from });
  const [, ...lines] = `${rows.trimEnd()}\n`.split('\n'); // the first tells how to behave
  const timer = setInterval(() => {
    try {
      if (step === steps) {
        clearInterval(timer);
        return succeed({ resumed_from: from });
      }
      step += 1;
      weights = digestOf(weights + lines[step % lines.length]);
      say({ type: 'progress', step, total_steps: steps, stage: 'train' });
      say({ type: 'metrics', step, values: { from } });
      if (step % every === 0) checkpoint();
    } catch (error) {
      giveUp(error);
    }
  }, ms);
}

/** As the real one does with what it did not expect. */
function giveUp(error) {
  const reason = error.code === 'ENOSPC' ? 'disk_full' : 'error';
  say({ type: 'failure', reason, detail: error.message });
  process.exit(1);
}

const rollout = {
  prompt: 'p',
  response: 'a\0 b', // a policy may say anything
  token_ids: [1, 2],
  tokens: ['a\0', ' b'],
  finish_reason: 'length',
  rewards: [0, -1],
  kl: [0, 0.5],
  values: [0, null],
  advantages: [0, 0],
  logprobs: [-1, -2],
};

const behaviours = {
  succeed: () => succeed(),
  'succeed without model'() {
    say({ type: 'result', result: {} });
    process.stdin.destroy();
  },
  work: () => work(details[0] && JSON.parse(details[0])),
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
  /** An alarm that pauses, once: resumed, it goes on to its end. */
  'pause itself'() {
    if (existsSync(join(workdir, 'checkpoints'))) return work();
    step = 3;
    const numbers = { step, value: 0.4, threshold: 0.3 };
    say({ type: 'alarm', code: 'high_kl', detail: 'too far', ...numbers, action: 'pause' });
    stop('an alarm');
  },
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
  'eat memory'() {
    const eaten = [];
    setInterval(() => eaten.push(Buffer.alloc(32 << 20, 1)), 5);
  },
  hang() {}, // its life line keeps it alive
  'fill the disk'() {
    try {
      writeFileSync('/dev/full', 'a checkpoint');
    } catch (error) {
      giveUp(error);
    }
  },
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
  environment: () => succeed({ environment: process.env, device: argument('--device') }),
  'leave a child'() {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
    say({ type: 'log', level: 'info', message: String(child.pid) });
    setTimeout(() => process.exit(5), 300);
  },
  watched() {
    const folder = join(workdir, 'rollouts');
    mkdirSync(folder);
    const row = (n) => ({ ...rollout, id: `prompt-${n}` });
    for (const at of [5, 10]) {
      const rows = Array.from({ length: 30 }, (_, n) => `${JSON.stringify(row(n))}\n`).join('');
      writeFileSync(join(folder, `step-${at}.ndjson.gz`), gzipSync(rows));
      say({ type: 'rollouts', step: at, path: `rollouts/step-${at}.ndjson.gz`, count: 30 });
    }
    for (let n = 1; n <= 1200; n++) process.stderr.write(`stderr ${n}\n`);
    say({ type: 'log', level: 'warning', message: 'look here' });
    for (step = 1; step <= 300; step++)
      say({ type: 'metrics', step, values: { loss: 1 / step, ...(step % 10 ? {} : { odd: null }) } });
    const go = setInterval(() => {
      if (!existsSync(details[0])) return;
      clearInterval(go);
      succeed();
    }, 50);
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
