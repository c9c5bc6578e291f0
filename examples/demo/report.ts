// The demo's report: one HTML page that needs nothing else, neither scripts nor network. Every text from data is escaped.
import { armColour, type ChartSeries, lineChart } from '../charts.ts';
import type { Arm, CurvePoint, Estimate, ReportData } from './report/data.ts';
import { fixed, html, type Markup, percent, percentWithInterval, raw, whole } from './report/markup.ts';
import { style } from './report/style.ts';
import { editExample, heatMap } from './report/texts.ts';

export type { ReportData } from './report/data.ts';

/** @throws Error when `head_to_head` lacks the two arms of the headline */
export async function renderReport(data: ReportData): Promise<string> {
  const answer = headline(data);
  const charts = await learningCurves(data);
  const { seed, date, recipe } = data.made;
  const page = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>finegrain demo: ${answer}</title>
<style>${raw(style)}</style>
</head>
<body>
<main>
<header>
<p class="eyebrow">finegrain demo · ${recipe} recipe · seed ${seed} · ${date.toISOString().slice(0, 10)}</p>
<h1>${answer}</h1>
${lead(data)}
</header>
${section(
  'The arms',
  `Each arm is a policy. A win rate is the share of prompts on which its response is judged the better one, a tie counting
one half; in brackets its 95 % interval, in the bars with 50 % marked. ${data.judge}`,
  html`${armTable(data.arms)}<h3>Each against each</h3>
<p class="how">The row’s win rate over the column. A shaded cell’s interval excludes 50 %: blue the row wins, orange it loses.</p>
${matrix(data)}`,
)}
${section(
  'Learning curves',
  `Win rate over careful writers while training goes on, with 95 % bands: first over the responses sampled so far, then over
the distance from the starting policy, whose own win rate is in the table above. Higher is better; further left is cheaper.`,
  html`<div class="charts">${charts.map((svg) => html`<figure>${svg}</figure>\n`)}</div>`,
)}
${section(
  'What the token reward model sees',
  `Each token is shaded by its reward: the stronger the shade, the likelier an editor would take it away. Point at a token to read its
reward. The model has not seen these texts.`,
  heatMap(data.heat_map),
)}
${section(
  'What an edit does',
  `Struck through is what the edit deleted, underlined what it put in. The figure above a segment is what the edit changed in the
reward there; over kept text it stands at the first word and counts for all of that text, and under 0.05 it is left out. What
an insertion mends mostly shows in the text after it, which was blamed for what was missing.`,
  html`${data.edits.map(editExample)}`,
)}
${section(
  'The reward models',
  `On held-out prompts: how often the edited version scores higher (edit_accuracy), how often the preferred response of an unedited
pair does (pair_accuracy), and how well token rewards find the tokens that were edited away (bad_token_auc: 0.5 is
guessing, 1 perfect).`,
  rewardModels(data),
)}
${section(
  'How it was made',
  `The intervals are over the prompts of one draw of the data with one training seed: another draw may differ by more. What holds
over several draws is measured by the benchmark, in bench/RESULTS.md.`,
  making(data),
)}
</main>
</body>
</html>
`;
  return page.html;
}

function section(title: string, how: string, content: Markup): Markup {
  return html`<section><h2>${title}</h2>
<p class="how">${how}</p>
${content}
</section>
`;
}

/** The candidate's win rate over the baseline, whichever way round it was judged. */
function winRate(data: ReportData, candidate: string, baseline: string): Estimate | undefined {
  const match = (a: string, b: string) =>
    data.head_to_head.find((entry) => entry.candidate === a && entry.baseline === b)?.win_rate;
  const mirrored = match(baseline, candidate);
  return (
    match(candidate, baseline) ??
    (mirrored && {
      value: 1 - mirrored.value,
      low: 1 - mirrored.high,
      high: 1 - mirrored.low,
      n: mirrored.n,
    })
  );
}

const outcome = ({ low, high }: Estimate): 'better' | 'worse' | 'open' =>
  low > 0.5 ? 'better' : high < 0.5 ? 'worse' : 'open';

function headline(data: ReportData): string {
  const { candidate, baseline } = data.headline;
  const rate = winRate(data, candidate, baseline);
  if (!rate) throw new Error(`The report has no win rate of ${candidate} over ${baseline}.`);
  const [mine, theirs] = [candidate, baseline].map((name) => data.arms.find((arm) => arm.name === name)?.kl);
  const figure = `${percentWithInterval(rate)} of ${whole(rate.n)} prompts`;
  const sentence = {
    better: `${candidate} beats ${baseline} on ${figure}`,
    worse: `${candidate} loses to ${baseline}: it wins ${figure}`,
    open: `${candidate} and ${baseline} cannot be told apart: ${candidate} wins ${figure}, and the interval contains 50\u00a0%`,
  }[outcome(rate)];
  const kl =
    mine === undefined || theirs === undefined ? '' : `, at KL ${fixed(mine, 1)} against ${fixed(theirs, 1)}`;
  return `${capitalised(sentence)}${kl}.`;
}

/** What was compared, and the candidate against every other arm. */
function lead(data: ReportData): Markup {
  const { candidate, baseline } = data.headline;
  const [start] = data.arms;
  const others = data.arms.flatMap(({ name }): string[] => {
    const rate = name === candidate || name === baseline ? undefined : winRate(data, candidate, name);
    if (!rate) return [];
    const remark = { better: '', worse: ', so it does worse', open: ', which leaves open which is better' };
    const other = name === start?.name ? `the ${name}` : name;
    return [`${percentWithInterval(rate)} against ${other}${remark[outcome(rate)]}`];
  });
  return html`<p class="lead">${count(data.arms.length)} policies were compared on the same held-out prompts; all training used one
snapshot of minimally edited responses. KL is the distance to the starting policy in nats a response: what a policy pays
for its wins.</p>
${others.length === 0 ? '' : html`<p class="lead">${capitalised(candidate)} wins ${others.join('; ')}.</p>`}`;
}

const count = (number: number): string =>
  ['No', 'One', 'Two', 'Three', 'Four', 'Five', 'Six', 'Seven', 'Eight'][number] ?? whole(number);

const capitalised = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

function armName(name: string): Markup {
  return html`<span class="arm" style="--arm:${armColour(name)}">${name}</span>`;
}

function armTable(arms: Arm[]): Markup {
  return html`<div class="scroll"><table>
<thead><tr><th>arm</th><th class="n">win rate over<br>the starting policy</th><th class="n">win rate over<br>careful writers</th>
<th class="n">KL to<br>the start</th><th class="n">tokens a<br>response</th><th class="n">samples<br>used</th></tr></thead>
<tbody>${arms.map(
    (
      arm,
    ) => html`<tr style="--arm:${armColour(arm.name)}"><td>${armName(arm.name)}<span class="description">${arm.description}</span></td>
<td class="n">${arm.win_rate_over_start ? rateWithBar(arm.win_rate_over_start) : '–'}</td>
<td class="n">${rateWithBar(arm.win_rate_over_writers)}</td>
<td class="n">${fixed(arm.kl, 1)}</td><td class="n">${fixed(arm.mean_length, 1)}</td><td class="n">${whole(arm.samples)}</td></tr>
`,
  )}</tbody></table></div>`;
}

function rateWithBar(rate: Estimate): Markup {
  const at = (fraction: number): string => `${(fraction * 100).toFixed(1)}%`;
  return html`${percent(rate.value)}<span class="bar"><i style="left:${at(rate.low)};width:${at(rate.high - rate.low)}"></i><b style="left:${at(rate.value)}"></b></span><span class="interval">${interval(rate)}</span>`;
}

const interval = ({ low, high }: Estimate): string =>
  `[${(low * 100).toFixed(1)}, ${(high * 100).toFixed(1)}]`;

function matrix(data: ReportData): Markup {
  const cell = (row: string, column: string): Markup => {
    const rate = row === column ? undefined : winRate(data, row, column);
    if (!rate) return html`<td class="none">–</td>`;
    const how = outcome(rate);
    const shade = how === 'open' ? 0 : 0.12 + Math.abs(rate.value - 0.5) * 0.6;
    const hue = how === 'worse' ? '--bad' : '--good';
    return html`<td style="--hue:var(${hue});--a:${shade.toFixed(3)}">${percent(rate.value)}<span class="interval">${interval(rate)}</span></td>`;
  };
  return html`<div class="scroll"><table class="matrix">
<thead><tr><th></th>${data.arms.map(({ name }) => html`<th>${armName(name)}</th>`)}</tr></thead>
<tbody>${data.arms.map(
    ({ name: row }) =>
      html`<tr><th>${armName(row)}</th>${data.arms.map(({ name: column }) => cell(row, column))}</tr>\n`,
  )}</tbody></table></div>`;
}

async function learningCurves({ arms, learning_curves }: ReportData): Promise<Markup[]> {
  const curves = arms.flatMap((arm): { name: string; points: CurvePoint[] }[] => {
    if (!arm.win_rate_over_start) return [];
    const curve = learning_curves.find(({ arm: name }) => name === arm.name);
    const atTheEnd = { samples: arm.samples, kl: arm.kl, win_rate: arm.win_rate_over_writers };
    return [{ name: arm.name, points: curve?.points ?? [atTheEnd] }];
  });
  const chart = async (title: string, label: string, x: (point: CurvePoint) => number): Promise<Markup> => {
    const series = curves.map(
      ({ name, points }): ChartSeries => ({
        name,
        points: points.map((point) => {
          const { value, low, high } = point.win_rate;
          return { x: x(point), y: value, low, high };
        }),
      }),
    );
    const svg = await lineChart({
      title,
      x: { label },
      y: { label: 'win rate over careful writers', percent: true },
      series,
      rule: { y: 0.5, label: 'careful writers' },
      width: 460,
    });
    return raw(svg.replace(/ xmlns(:xlink)?="[^"]*"/g, '')); // within HTML they say nothing
  };
  return Promise.all([
    chart('Win rate over samples', 'responses sampled in training', ({ samples }) => samples),
    chart('Win rate over KL', 'KL to the starting policy, nats a response', ({ kl }) => kl),
  ]);
}

function rewardModels({ reward_models, gate, reliability }: ReportData): Markup {
  const figure = (estimate: Estimate | null, what: string): Markup =>
    estimate
      ? html`<td class="n">${fixed(estimate.value, 3)}<span class="interval">[${fixed(estimate.low, 3)}, ${fixed(estimate.high, 3)}]</span><span class="interval">${whole(estimate.n)} ${what}</span></td>`
      : html`<td class="n">–</td>`;
  const checks = gate.map(
    ({ metric, value, minimum, passed }) =>
      `${metric} ${fixed(value, 3)} ${passed ? 'reaches' : 'misses'} its minimum of ${fixed(minimum, 2)}`,
  );
  return html`<div class="scroll"><table>
<thead><tr><th>model</th><th class="n">edit_accuracy</th><th class="n">pair_accuracy</th><th class="n">bad_token_auc</th></tr></thead>
<tbody>${reward_models.map(
    ({
      name,
      loss,
      ...figures
    }) => html`<tr><td>${name}<span class="interval">loss ${loss}</span></td>${figure(figures.edit_accuracy, 'edits')}${figure(figures.pair_accuracy, 'pairs')}${figure(figures.bad_token_auc, 'edits')}</tr>
`,
  )}</tbody></table></div>
<ul class="note"><li><strong>Gate ${gate.every(({ passed }) => passed) ? 'passed' : 'missed'}</strong> (token reward model): ${checks.join('; ')}.</li>
<li>edit_accuracy says little by itself: models that are high in it have lost at PPO. What went with success is bad_token_auc.</li>
${reliability.map((sentence) => html`<li>${sentence}</li>\n`)}</ul>`;
}

function making({ made }: ReportData): Markup {
  const { environment, stages } = made;
  const { git } = environment;
  const commit = git
    ? `${git.commit.slice(0, 12)}${git.dirty ? ', with changes that are not committed' : ''}`
    : null;
  const total = stages.reduce((sum, { seconds }) => sum + seconds, 0);
  const environmentRows: [string, string | null][] = [
    ['Date', made.date.toISOString().replace(/\.\d+Z$/, 'Z')],
    ['Seed', String(made.seed)],
    ['Commit', commit],
    ['System', environment.operating_system],
    ['CPU', `${environment.cpu ?? 'unknown'}, ${environment.cores} cores, ${environment.memory_gib} GiB`],
    ['Node', environment.node],
    ['Python', environment.python],
    ['PyTorch', environment.torch],
  ];
  return html`<div class="facts">
<div><h3>Recipe: ${made.recipe}</h3>${facts(Object.entries(made.sizes).map(([name, size]) => [name, whole(size)]))}
${made.leaves_out === '' ? '' : html`<p class="note">${made.leaves_out}</p>`}
<h3>Environment</h3>${facts(environmentRows)}</div>
<div><h3>Seconds</h3>${facts(
    [...stages, { name: 'in all', seconds: total }].map(({ name, seconds }) => [name, fixed(seconds, 1)]),
    'n',
  )}</div>
</div>
<details><summary>Hyperparameters</summary>${Object.entries(made.hyperparameters).map(
    ([run, values]) =>
      html`<h3>${run}</h3>${facts(Object.entries(values).map(([name, value]) => [name, plain(value)]))}`,
  )}</details>
<details><summary>Digests</summary>${facts(Object.entries(made.digests))}</details>
<p class="note">The method: <a href="https://arxiv.org/abs/2406.02756">arXiv 2406.02756</a>, Aligning Large Language Models via Fine-grained
Supervision.</p>`;
}

const plain = (value: unknown): string => (typeof value === 'object' ? JSON.stringify(value) : String(value));

function facts(rows: [string, string | null][], kind: '' | 'n' = ''): Markup {
  return html`<dl class="${kind}">${rows.map(
    ([name, value]) => html`<dt>${name}</dt><dd>${value ?? 'unknown'}</dd>\n`,
  )}</dl>`;
}
