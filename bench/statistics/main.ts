// `npm run bench:statistics`: how long POST /v1/win-rates takes, and how long other requests wait meanwhile, on a service of its
// own. Writes its part of bench/RESULTS.md.
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { createRandom } from '../../examples/world/random.ts';
import type { Judgement, WinRateOptions } from '../../src/domain/win-rate.ts';
import { quantile } from '../../test/soak/trend.ts';
import { readyAddress } from '../../test/support/installation.ts';
import { onInstallation } from '../installation.ts';
import { describeMachine, writePart } from '../report.ts';

interface Case {
  name: string;
  judgements: Judgement[];
  options: WinRateOptions;
  repetitions: number;
  /** Most that the median may take, ms. */
  bar?: number;
}

/** Outcomes with a length effect. */
function judge(items: number, candidates: number): Judgement[] {
  const random = createRandom(`statistics ${items} ${candidates}`);
  return Array.from({ length: candidates }, (_, c) =>
    Array.from({ length: items }, (_, i): Judgement => {
      const length = 200 + random.integer(2000);
      return {
        item_id: `item-${i}`,
        outcome: Number(random.chance(0.3 + length / 5000)),
        candidate: `candidate-${c}`,
        length_candidate: length,
        length_baseline: 900,
      };
    }),
  ).flat();
}

const bootstrap = { rounds: 1000 };
const cases: Case[] = [
  { name: '805 judgements', judgements: judge(805, 1), options: {}, repetitions: 30, bar: 30 },
  { name: '805, 1,000 rounds', judgements: judge(805, 1), options: { bootstrap }, repetitions: 30, bar: 30 },
  {
    name: '805, as AlpacaEval',
    judgements: judge(805, 1),
    options: { length_control: { method: 'alpaca_eval' } },
    repetitions: 30,
  },
  { name: '805 of each of 6 candidates', judgements: judge(805, 6), options: {}, repetitions: 10 },
  {
    name: '100,000, 1,000 rounds',
    judgements: judge(100_000, 1),
    options: { bootstrap },
    repetitions: 5,
    bar: 5000,
  },
  {
    name: '10,000 of each of 10 candidates, 1,000 rounds',
    judgements: judge(10_000, 10),
    options: { bootstrap },
    repetitions: 3,
  },
];

type Send = (path: string, body?: string) => Promise<number>;

/** Milliseconds until the whole answer is there. */
function sender(url: string, key: string): Send {
  return async (path, body) => {
    const started = performance.now();
    const answer = await fetch(`${url}${path}`, {
      method: body === undefined ? 'GET' : 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body }),
    });
    const text = await answer.text();
    if (answer.status !== 200) throw new Error(`${path} answered ${answer.status}: ${text.slice(0, 500)}`);
    return performance.now() - started;
  };
}

async function measure(send: Send, { name, judgements, options, repetitions, bar }: Case): Promise<string> {
  const body = JSON.stringify({ judgements, options });
  await send('/v1/win-rates', body); // a service that has computed one before
  const times: number[] = [];
  const others: number[] = [];
  for (let repetition = 0; repetition < repetitions; repetition++) {
    let busy = true;
    const asking = (async () => {
      while (busy) {
        others.push(await send('/healthz'));
        await sleep(5);
      }
    })();
    times.push(await send('/v1/win-rates', body));
    busy = false;
    await asking;
  }
  const median = quantile(times, 0.5);
  const verdict = bar === undefined ? '' : `${median < bar ? 'reached' : '**missed**'}: < ${bar} ms`;
  const shown = [median, Math.max(...times), quantile(others, 0.5), Math.max(...others)].map((ms) =>
    ms.toFixed(0),
  );
  return `| ${name} | ${(body.length / 1e6).toFixed(1)} MB | ${shown.join(' | ')} | ${verdict} |`;
}

await onInstallation(async (installation) => {
  const where = describeMachine();
  const key = randomBytes(24).toString('hex');
  const api = installation.run('main-api.js', [], {
    DATABASE_URL: installation.directUrl('finegrain_api'),
    FINEGRAIN_API_KEY: key,
    HOST: '127.0.0.1',
    PORT: '0',
    LOG_LEVEL: 'error',
  });
  const send = sender(await readyAddress(api), key);
  const rows: string[] = [];
  for (const one of cases) rows.push(await measure(send, one));
  api.process.kill('SIGTERM');
  await api.ended;
  const part = `# Win rates

Made by \`npm run bench:statistics\`; ${where}. Milliseconds from request to answer over HTTP, body and validation included, and of
\`GET /healthz\`, asked every 5 ms meanwhile. All with lengths.

| judgements | body | median | slowest | others: median | others: slowest | bar |
| --- | --- | --- | --- | --- | --- | --- |
${rows.join('\n')}`;
  console.log(`\n${part}`);
  await writePart('statistics', part);
});
