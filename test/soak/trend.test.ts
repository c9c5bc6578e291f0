import t from 'tap';
import { type Point, quantile, trendOf } from './trend.ts';

/** Deterministic noise within ±1. */
const noise = (i: number): number => ((i * 7919) % 201) / 100 - 1;
const series = (slope: number, spread: number): Point[] =>
  Array.from({ length: 60 }, (_, i) => ({
    minutes: i / 12,
    value: 200 + (slope * i) / 12 + spread * noise(i),
  }));

t.test('a rise is found in noise, and noise is no rise', async (t) => {
  const rising = trendOf(series(3, 5));
  t.ok(Math.abs(rising.slope - 3) < 1, `${rising.slope} MB/min`);
  t.ok(rising.low > 0 && rising.low < 3 && rising.high > 3);
  const still = trendOf(series(0, 5));
  t.ok(Math.abs(still.slope) < 0.5 && still.low < 0 && still.high > 0);
  const spiked = series(0, 1).map((point, i) =>
    i % 10 === 9 ? { ...point, value: point.value + 100 } : point,
  );
  t.ok(Math.abs(trendOf(spiked).slope) < 0.5, 'spikes do not move it');
  const grown = trendOf(series(10, 0)).growth;
  t.ok(grown > 0.2 && grown < 0.25, `five minutes of 10 MB on 200 MB, between tenths: ${grown}`);
});

t.test('a quantile is one of the values', async (t) => {
  t.equal(quantile([3, 1, 2], 0.5), 2);
  t.equal(quantile([3, 1, 2], 0.99), 3);
  t.ok(Number.isNaN(quantile([], 0.5)));
});
