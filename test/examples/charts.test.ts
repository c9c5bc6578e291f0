import t from 'tap';
import { armColour, type LineChart, lineChart } from '../../examples/charts.ts';
import { malformed } from './markup.ts';

const chart: LineChart = {
  title: 'Wins & <losses>',
  x: { label: 'samples' },
  y: { label: 'win rate over the starting policy', percent: true },
  series: [
    {
      name: 'sequence PPO',
      points: [
        { x: 0, y: 0.5, low: 0.4, high: 0.6 },
        { x: 1000, y: 0.6, low: 0.5, high: 0.7 },
      ],
    },
    { name: 'SFT on edits', points: [{ x: 0, y: 0.55, low: 0.5, high: 0.6 }] },
    {
      name: 'goes back',
      points: [
        { x: 500, y: 0.5 },
        { x: 400, y: 0.6 },
      ],
    },
  ],
  rule: { y: 0.5, label: 'starting policy' },
};
const count = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].length;

t.test('a chart is one well-formed SVG element with an accessible title', async (t) => {
  const svg = await lineChart(chart);
  t.equal(malformed(svg), null);
  t.match(
    svg,
    /^<svg [^>]*xmlns="[^"]*" [^>]*role="img"[^>]*width="640"[^>]*><title>Wins &amp; &lt;losses&gt;<\/title>/,
  );
  t.match(svg, />win rate over the starting policy</, 'the y axis says what it is');
  t.match(svg, />60 %</);
  t.match(svg, />1,000</);
  t.match(svg, />starting policy</, 'the rule has its label');
  for (const { name } of chart.series) t.match(svg, `>${name}<`, 'the legend names each series');
  t.match(await lineChart({ ...chart, width: 400 }), /viewBox="0 0 400 /);
});

t.test('intervals are a band along a line and error bars elsewhere', async (t) => {
  const svg = await lineChart(chart);
  const marks = (kind: string) =>
    [...svg.matchAll(new RegExp(`mark-${kind} role-mark[^>]*>(.*?)</g>`, 'g'))]
      .map(([, content]) => content!)
      .join('');
  t.equal(count(marks('area'), /<path/g), 1, 'one band');
  t.match(marks('area'), armColour('sequence PPO'));
  t.equal(count(marks('rule'), /<line/g), 2, 'one error bar, and the level to compare with');
  t.equal(count(marks('line'), /<path/g), 3);
  t.equal(count(marks('symbol'), /<path/g), 5);
  t.same(await lineChart(chart), svg, 'the same data give the same file');
});

t.test('nothing is drawn above or left of the picture, whatever the labels', async (t) => {
  for (const width of [400, 640]) {
    const svg = await lineChart({
      ...chart,
      width,
      y: { label: 'a label that is much longer than the axis is high' },
    });
    const [, left, top] = /<g fill="none"[^>]*translate\(([-\d.]+),([-\d.]+)\)/.exec(svg)!;
    const [, titleLeft, titleTop] = /role-title"><g transform="translate\(([-\d.]+),([-\d.]+)\)/.exec(svg)!;
    t.ok(Number(left) + Number(titleLeft) >= 0 && Number(top) + Number(titleTop) >= 0, `at ${width}`);
  }
});

t.test('an arm has one colour everywhere, and the arms of the demo differ', async (t) => {
  const arms = ['starting policy', 'SFT on edits', 'sequence PPO', 'fine-grained PPO'];
  t.equal(new Set(arms.map(armColour)).size, 4);
  t.match(armColour('some other arm'), /^#[0-9a-f]{6}$/);
  t.equal(armColour('some other arm'), armColour('some other arm'));
});
