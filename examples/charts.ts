// Line charts as SVG text, drawn by Vega-Lite without a browser: for the demo's report and for files beside bench/RESULTS.md.
// Readable in light and dark surroundings, on paper and without colour: each series has its own colour and its own shape.
import { parse, View } from 'vega';
import { compile, type TopLevelSpec } from 'vega-lite';

export interface ChartPoint {
  x: number;
  y: number;
  /** The interval around y; both or neither. */
  low?: number;
  high?: number;
}

export interface ChartSeries {
  /** An arm has the same colour in every chart: see `armColour`. */
  name: string;
  /** In the order of x or of time; the line follows it. Intervals are a band, or error bars where x goes back or there is one point only. */
  points: ChartPoint[];
}

export interface ChartAxis {
  label: string;
  /** The values are fractions, written as per cent. */
  percent?: boolean;
}

export interface LineChart {
  title: string;
  x: ChartAxis;
  y: ChartAxis;
  series: ChartSeries[];
  /** A level to compare with, drawn across. */
  rule?: { y: number; label: string };
  /** Of the whole picture in CSS pixels; 640 unless given. */
  width?: number;
}

// Okabe and Ito's colours that stand out against white and against near-black.
const fixedColours: Record<string, string> = {
  'starting policy': '#7a7a7a',
  'SFT on edits': '#b0619a',
  'sequence PPO': '#d55e00',
  'fine-grained PPO': '#0f7bbd',
  'DPO on edits': '#a67c00',
  'DPO, fine-grained PPO': '#009e73',
};
const otherColours = ['#6a51a3', '#a65628', '#4d7a8a', '#c51b7d', '#637939'];
const shapes = ['circle', 'square', 'triangle-up', 'diamond', 'cross', 'triangle-down'];

/** The colour of an arm, the same wherever it appears; names beyond the known arms share a few more colours. */
export function armColour(name: string): string {
  const code = [...name].reduce((sum, character) => sum + character.codePointAt(0)!, 0);
  return fixedColours[name] ?? otherColours[code % otherColours.length]!;
}

/** An SVG element that stands alone as a file, or within a page, whose CSS may set `color` and `background` of `svg.chart`. */
export async function lineChart(chart: LineChart): Promise<string> {
  const view = new View(parse(compile(specification(chart)).spec), { renderer: 'none' });
  try {
    return finish(await view.toSVG(), chart.title);
  } finally {
    view.finalize();
  }
}

function specification({ title, x, y, series, rule, width = 640 }: LineChart): TopLevelSpec {
  const rows = series
    .toSorted((a, b) => b.points.length - a.points.length) // single points on top of lines
    .flatMap(({ name, points }) => {
      const marks = { series: name, band: hasBand(points), size: points.length === 1 ? 120 : 60 };
      return points.map((point, order) => ({ ...point, ...marks, order }));
    });
  const names = series.map(({ name }) => name);
  const channels = {
    x: { field: 'x', type: 'quantitative', axis: axis(x), scale: { zero: false, nice: true } },
    y: {
      field: 'y',
      type: 'quantitative',
      axis: { ...axis(y), title: null },
      scale: { zero: false, nice: true },
    },
    color: {
      field: 'series',
      type: 'nominal',
      scale: { domain: names, range: names.map(armColour) },
      legend: { orient: 'top', title: null, columns: width < 560 ? 2 : 4, symbolSize: 90, symbolOpacity: 1 },
    },
    shape: { field: 'series', type: 'nominal', scale: { domain: names, range: shapes } },
  } as const;
  const { shape, ...withoutShape } = channels;
  const interval = { ...withoutShape, y: { ...channels.y, field: 'low' }, y2: { field: 'high' } };
  const hasInterval = 'isValid(datum.low) && isValid(datum.high)';
  return {
    width,
    height: Math.round(width * 0.5 + 90),
    autosize: { type: 'fit', contains: 'padding' },
    padding: 8,
    title: { text: title, subtitle: y.label, anchor: 'start', offset: 12 }, // turned text beside the axis reads badly
    data: { values: rows },
    layer: [
      {
        transform: [{ filter: `${hasInterval} && datum.band` }],
        mark: { type: 'area', opacity: 0.16, line: false },
        encoding: interval,
      },
      {
        transform: [{ filter: `${hasInterval} && !datum.band` }],
        mark: { type: 'rule', strokeWidth: 2, opacity: 0.7 },
        encoding: interval,
      },
      { mark: { type: 'line', strokeWidth: 2 }, encoding: { ...withoutShape, order: { field: 'order' } } },
      {
        mark: { type: 'point', filled: true, opacity: 1 },
        encoding: { ...channels, size: { field: 'size', type: 'quantitative', scale: null, legend: null } },
      },
      ...(rule ? ruleLayers(rule) : []),
    ],
    config: {
      aria: false, // one title for the whole instead of a label for each mark
      background: 'transparent',
      font: 'system-ui, sans-serif',
      view: { stroke: null },
      title: {
        color: 'currentColor',
        fontSize: 15,
        fontWeight: 600,
        subtitleColor: 'currentColor',
        subtitleFontSize: 13,
      },
      legend: { labelColor: 'currentColor', labelFontSize: 13, labelLimit: 220, columnPadding: 16 },
      axis: {
        labelColor: 'currentColor',
        labelFontSize: 12,
        titleColor: 'currentColor',
        titleFontSize: 13,
        titleFontWeight: 'normal',
        titlePadding: 8,
        gridColor: 'currentColor',
        gridOpacity: 0.12,
        domain: false,
        ticks: false,
        labelPadding: 6,
      },
    },
  } as TopLevelSpec;
}

/** A band needs a line that goes one way; else each point has its own error bar. */
function hasBand(points: ChartPoint[]): boolean {
  return points.length > 1 && points.every((point, index) => index === 0 || point.x > points[index - 1]!.x);
}

function axis({ label, percent }: ChartAxis) {
  return {
    title: label,
    tickCount: 6,
    ...(percent ? { labelExpr: "format(datum.value * 100, '~r') + ' %'" } : { format: ',~r' }),
  };
}

function ruleLayers({ y, label }: { y: number; label: string }) {
  const level = { datum: y, type: 'quantitative' };
  return [
    {
      data: { values: [{}] },
      mark: { type: 'rule', color: 'currentColor', opacity: 0.6, strokeDash: [5, 4] },
      encoding: { y: level },
    },
    {
      data: { values: [{}] },
      mark: {
        type: 'text',
        align: 'right',
        dy: -7,
        fontSize: 12,
        color: 'currentColor',
        opacity: 0.75,
        text: label,
      },
      encoding: { y: level, x: { value: 'width' } },
    },
  ];
}

/** Gives the drawing its accessible title and the colours of its surroundings. */
function finish(svg: string, title: string): string {
  const style =
    'svg.chart{color:#24292f;background:#fff;max-width:100%;height:auto}' +
    '@media screen and (prefers-color-scheme:dark){svg.chart{color:#e6e6e6;background:#17191d}}';
  return svg.replace(
    /^<svg ([^>]*)class="marks"([^>]*)>/,
    (_, before: string, after: string) =>
      `<svg ${before}class="chart" role="img"${after}><title>${escapeMarkup(title)}</title><style>${style}</style>`,
  );
}

/** Text as the content of an element or of a quoted attribute, of HTML or SVG. */
export function escapeMarkup(text: string): string {
  const entities: Record<string, string> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return text.replace(/[&<>"']/g, (character) => entities[character]!);
}
