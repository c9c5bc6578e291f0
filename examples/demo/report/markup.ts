// HTML with every value escaped, and numbers as the report writes them.
import { escapeMarkup } from '../../charts.ts';

/** Text that is HTML already. */
export interface Markup {
  html: string;
}

export const raw = (html: string): Markup => ({ html });

/** A template whose values are escaped, unless they are markup; lists are joined. */
export function html(strings: TemplateStringsArray, ...values: Value[]): Markup {
  return raw(strings.map((text, index) => text + rendered(values[index] ?? '')).join(''));
}

type Value = string | number | Markup | Markup[];

function rendered(value: Value): string {
  if (Array.isArray(value)) return value.map((part) => part.html).join('');
  return typeof value === 'object' ? value.html : escapeMarkup(String(value));
}

const minus = (text: string): string => text.replace('-', '−');

/** `63.2 %`, on one line */
export const percent = (fraction: number): string => `${(fraction * 100).toFixed(1)}\u00a0%`;

/** `63.2 % [57.0, 69.4]` */
export const percentWithInterval = ({
  value,
  low,
  high,
}: {
  value: number;
  low: number;
  high: number;
}): string => `${percent(value)} [${(low * 100).toFixed(1)},\u00a0${(high * 100).toFixed(1)}]`;

export const fixed = (value: number, digits: number): string => minus(withoutMinusZero(value, digits));

/** With its sign, also a positive one. */
export function signed(value: number, digits = 2): string {
  const text = withoutMinusZero(value, digits);
  return Number(text) > 0 ? `+${text}` : minus(text);
}

function withoutMinusZero(value: number, digits: number): string {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace('-', '') : text;
}

export const whole = (value: number): string => minus(Math.round(value).toLocaleString('en'));
