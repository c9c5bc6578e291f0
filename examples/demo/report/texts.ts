// Texts with their rewards: tokens shaded by reward, and an edit with what each of its segments is worth.
import type { EditExample, ReportData, ScoredResponse } from './data.ts';
import { fixed, html, type Markup, raw, signed } from './markup.ts';

/** The strongest shade that text on it stays readable with. */
const strongestShade = 0.8;

/** Responses with each token shaded, and the legend of the shades, which all of them share. */
export function heatMap(examples: ReportData['heat_map']): Markup {
  const rewards = examples.flatMap(({ responses }) => responses.flatMap((response) => response.rewards));
  const worst = rewards.reduce((lowest, reward) => Math.min(lowest, reward), -0.5);
  return html`${legend(worst)}
${examples.map(
  ({ prompt, responses }) => html`<div class="example">
<p class="prompt">${prompt}</p>
${responses.map(
  (response) => html`<div class="response">
<span class="label">${response.label}</span>
<p class="text">${shadedTokens(response, worst)}</p>
<span class="sum">${fixed(response.reward, 2)}</span>
</div>
`,
)}</div>
`,
)}`;
}

function legend(worst: number): Markup {
  return html`<p class="legend"><span>0</span><span class="scale"></span><span>${fixed(worst, 2)}</span>
<span class="legend-text">reward of a token; at the end of a line, their sum</span></p>`;
}

/** Pieces that share a character are shown as one, with their sum; EOS, or whatever else has no text at the end, as a box. */
function shadedTokens({ tokens, rewards }: ScoredResponse, worst: number): Markup[] {
  const shown: Markup[] = [];
  let text = '';
  let reward = 0;
  let parts = 0;
  const show = (ink: Markup): void => {
    const shade = Math.max(0, Math.min(1, reward / worst)) * strongestShade;
    const what = parts === 1 ? fixed(reward, 3) : `${fixed(reward, 3)} (${parts} tokens)`;
    shown.push(html`<span class="t" style="--a:${shade.toFixed(3)}" title="${what}">${ink}</span>`);
    [text, reward, parts] = ['', 0, 0];
  };
  tokens.forEach((token, index) => {
    text += token;
    reward += rewards[index]!;
    parts += 1;
    if (text === '') return;
    const ink = text.trimStart();
    if (ink !== '') shown.push(html`${text.slice(0, text.length - ink.length)}`); // a space is not shaded with its word
    show(html`${ink || text}`);
  });
  if (parts > 0) show(html`<span class="end">end</span>`);
  return shown;
}

/** Differences below this are not written over a kept segment: nothing happened there. */
const leastShownDifference = 0.05;

/** An edit with the difference of each segment above it, and all figures in a table to open. */
export function editExample({ prompt, original, edited, comparison }: EditExample): Markup {
  const { segments, end } = comparison;
  const texts = segments.map(({ original: from, edited: to }) => ({
    before: original.slice(...from),
    after: edited.slice(...to),
  }));
  const rows = segments.map((segment, index) => {
    const { before, after } = texts[index]!;
    const text = segment.kind === 'keep' ? html`${shortened(before)}` : changedText(before, after);
    return figureRow(segment.kind, text, segment);
  });
  return html`<div class="example">
<p class="prompt">${prompt}</p>
<p class="text edit">${segments.map(({ kind, difference }, index) => segmentText(kind, texts[index]!, difference))}${
    Math.abs(end.difference) < leastShownDifference
      ? ''
      : piece(html`<span class="end">end</span>`, end.difference)
  }</p>
<p class="total">Whole response: ${fixed(comparison.original_reward, 2)} → ${fixed(comparison.edited_reward, 2)}, <strong>${signed(comparison.difference)}</strong></p>
<details><summary>All segments</summary><div class="scroll"><table>
<thead><tr><th>segment</th><th>text</th><th class="n">original</th><th class="n">edited</th><th class="n">difference</th></tr></thead>
<tbody>${rows}${figureRow('end', raw('EOS, the end of the response'), end)}</tbody></table></div></details>
</div>
`;
}

function figureRow(kind: string, text: Markup, figures: EditExample['comparison']['end']): Markup {
  return html`<tr><td>${kind}</td><td class="cell-text">${text}</td><td class="n">${fixed(figures.original_reward, 3)}</td><td class="n">${fixed(figures.edited_reward, 3)}</td><td class="n">${signed(figures.difference, 3)}</td></tr>
`;
}

function segmentText(
  kind: string,
  { before, after }: { before: string; after: string },
  difference: number,
): Markup {
  if (kind !== 'keep') {
    const space = trailingSpace(after || before); // left outside, or it would be marked as well
    return html`${piece(changedText(before, after), difference)}${space}`;
  }
  if (Math.abs(difference) < leastShownDifference) return html`${before}`;
  // the figure stands over the first word, where what went before is paid for
  const [, lead, word, rest] = /^([^\p{L}\p{N}]*)(\S*)(.*)$/su.exec(before)!;
  if (word === '') return piece(html`${before}`, difference);
  return html`${lead!}${piece(html`${word!}`, difference, rest!.length >= 8)}${rest!}`;
}

/** Text with a figure over it. @param free no other figure is near, so that this one may be wider than the text */
function piece(text: Markup, difference: number, free = false): Markup {
  const size = Math.abs(difference) < leastShownDifference ? 'same' : difference > 0 ? 'better' : 'worse';
  return html`<span class="${free ? 'piece free' : 'piece'}"><span class="figure ${size}">${signed(difference)}</span><span>${text}</span></span>`;
}

function changedText(before: string, after: string): Markup {
  const [out, put] = [withoutTrailingSpace(before), withoutTrailingSpace(after)];
  return html`${out === '' ? '' : html`<del>${out}</del>`}${out !== '' && put !== '' ? ' ' : ''}${put === '' ? '' : html`<ins>${put}</ins>`}`;
}

const trailingSpace = (text: string): string => (text.trim() === '' ? '' : /\s*$/.exec(text)![0]);
const withoutTrailingSpace = (text: string): string =>
  text.slice(0, text.length - trailingSpace(text).length);

/** The ends of a long text. */
function shortened(text: string): string {
  const characters = [...text];
  return characters.length <= 60
    ? text
    : `${characters.slice(0, 28).join('')} … ${characters.slice(-28).join('')}`;
}
