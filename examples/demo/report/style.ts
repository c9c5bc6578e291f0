// How the report looks: one column, light and dark by the reader's setting, narrow screens, paper.
export const style = `
:root { color-scheme: light dark; --text: #1d2125; --muted: #5c6670; --page: #fff; --panel: #f6f7f9; --line: #dfe3e8;
  --bad: 213 94 0; --good: 15 123 189; --better: #0b6aa3; --worse: #b04e00; }
@media screen and (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --muted: #9aa4ae; --page: #17191d; --panel: #1f2227;
  --line: #343940; --better: #5fb0e5; --worse: #f09a5a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.6 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
main { max-width: 62rem; margin: 0 auto; padding: 4rem 1.5rem 5rem; }
.eyebrow { margin: 0 0 1rem; color: var(--muted); font-size: .875rem; }
h1 { margin: 0 0 1.25rem; font-size: clamp(1.5rem, 1.1rem + 1.7vw, 2.25rem); line-height: 1.25; font-weight: 650;
  letter-spacing: -.015em; text-wrap: balance; max-width: 52rem; }
.lead { font-size: 1.0625rem; max-width: 46rem; margin: 0 0 .75rem; }
section { margin-top: 4rem; }
h2 { margin: 0 0 .375rem; font-size: 1.375rem; line-height: 1.3; font-weight: 620; letter-spacing: -.01em; }
h3 { margin: 2rem 0 .5rem; font-size: 1rem; font-weight: 620; }
.how { margin: 0 0 1.5rem; color: var(--muted); max-width: 46rem; }
a { color: inherit; }
code { font: .875em ui-monospace, monospace; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
th, td { padding: .625rem 1rem .625rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 500; font-size: .8125rem; color: var(--muted); vertical-align: bottom; line-height: 1.35; }
tbody tr:last-child > * { border-bottom: 0; }
th.n, td.n { text-align: right; white-space: nowrap; }
td.n:last-child, th.n:last-child { padding-right: 0; }
.arm { display: block; white-space: nowrap; font-weight: 550; font-size: .9375rem; color: var(--text); }
.arm::before { content: ""; display: inline-block; width: .625em; height: .625em; margin-right: .5em; border-radius: 50%;
  background: var(--arm); }
.description { display: block; min-width: 11rem; color: var(--muted); font-size: .8125rem; line-height: 1.4; padding-left: 1.2rem; }
.interval { display: block; color: var(--muted); font-size: .8125rem; white-space: nowrap; }
.bar { position: relative; display: block; width: 7.5rem; height: 6px; margin: .375rem 0 .125rem auto; border-radius: 3px;
  background: linear-gradient(var(--muted), var(--muted)) 50% / 1px 100% no-repeat, var(--line); }
.bar > i { position: absolute; top: 0; height: 6px; border-radius: 3px; background: var(--arm); opacity: .5; }
.bar > b { position: absolute; top: -3px; width: 4px; height: 12px; margin-left: -2px; border-radius: 2px; background: var(--arm); }
.matrix td, .matrix thead th { text-align: center; padding: .625rem .5rem; }
.matrix td { white-space: nowrap; }
.matrix .arm { display: inline-block; white-space: normal; font-size: .875rem; line-height: 1.3; }
.matrix tbody th { vertical-align: middle; }
.matrix th { border: 0; }
.matrix td { border: 2px solid var(--page); background: rgb(var(--hue) / var(--a, 0)); }
.matrix td.none { color: var(--muted); }
.matrix .interval { color: inherit; opacity: .8; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 2rem 1.5rem; }
figure { margin: 0; max-width: 34rem; }
figure svg.chart { display: block; width: 100%; color: var(--text); background: none; }
.legend { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem .625rem; margin: 0 0 1.5rem; color: var(--muted);
  font-size: .875rem; }
.scale { width: 9rem; height: .75rem; border-radius: 2px; border: 1px solid var(--line);
  background: linear-gradient(90deg, rgb(var(--bad) / 0), rgb(var(--bad) / .8)); }
.legend-text { margin-left: .5rem; }
.example { margin: 0 0 1.5rem; padding: 1.25rem 1.5rem; background: var(--panel); border-radius: 8px; }
.prompt { margin: 0 0 .75rem; color: var(--muted); font-size: .9375rem; }
.prompt::before { content: "Prompt "; font-weight: 600; }
.response { display: grid; grid-template-columns: 6.5rem minmax(0, 1fr) 4rem; gap: 0 1rem; padding: .625rem 0;
  border-top: 1px solid var(--line); }
.label { color: var(--muted); font-size: .875rem; line-height: 1.9; }
.text { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75; }
.sum { text-align: right; font-weight: 550; line-height: 1.75; }
.t { border-radius: 2px; padding: .125em 0; background: rgb(var(--bad) / var(--a)); }
.end { display: inline-block; padding: 0 .375em; border: 1px solid var(--line); border-radius: 3px; color: var(--muted);
  font-size: .75rem; line-height: 1.4; vertical-align: .0625em; }
.edit { line-height: 3; }
.piece { position: relative; display: inline-block; min-width: 2.5rem; line-height: 1.5; white-space: pre-wrap; }
.free { min-width: 0; }
.figure { position: absolute; bottom: 100%; left: 0; font-size: .8125rem; line-height: 1.2; font-weight: 600; white-space: nowrap; }
.better { color: var(--better); }
.worse { color: var(--worse); }
.same { color: var(--muted); font-weight: 450; }
del { color: var(--worse); text-decoration: line-through 1.5px; }
ins { color: var(--better); text-decoration: underline 1.5px; text-underline-offset: .2em; }
.total { margin: .75rem 0 0; font-size: .9375rem; }
.cell-text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 12rem; }
details { margin-top: .75rem; }
summary { cursor: pointer; color: var(--muted); font-size: .875rem; width: fit-content; }
details[open] > summary { margin-bottom: .5rem; }
.note { margin: 1.25rem 0 0; max-width: 46rem; font-size: .9375rem; }
.note li + li { margin-top: .375rem; }
ul.note { padding-left: 1.125rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 3rem; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem 1.25rem; margin: 0; font-size: .9375rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
.facts h3 { margin-top: 1rem; }
dl.n { grid-template-columns: minmax(0, 1fr) max-content; width: fit-content; min-width: min(100%, 20rem); }
dl.n > dd { text-align: right; white-space: nowrap; }
@media (max-width: 40rem) {
  main { padding: 2.5rem 1.125rem 3rem; }
  section { margin-top: 3rem; }
  .example { padding: 1rem 1.125rem; }
  .response { grid-template-columns: minmax(0, 1fr) auto; }
  .label { grid-row: 1; }
  .sum { grid-row: 1; grid-column: 2; }
  .text { grid-column: 1 / -1; }
  .legend-text { margin-left: 0; flex-basis: 100%; }
  .matrix { font-size: .75rem; }
  .matrix td, .matrix thead th { padding: .5rem .125rem; }
  .matrix tbody th { padding-right: .25rem; }
  .matrix .arm { white-space: normal; font-size: .75rem; line-height: 1.3; }
  .matrix .interval { font-size: .625rem; }
}
@media print {
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  section { margin-top: 2rem; }
  h2, .how { break-after: avoid; }
  .example, figure, tr { break-inside: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h1 { font-size: 20pt; }
  .lead { font-size: inherit; }
  table { font-size: 9pt; }
  .interval, .description, th { font-size: 8pt; }
  .bar { width: 5rem; }
  .matrix td, .matrix thead th { padding: .4rem .125rem; }
  .matrix .arm { white-space: normal; font-size: 8.5pt; }
  .charts { grid-template-columns: 1fr 1fr; }
  .scroll { overflow: visible; }
  details::details-content { content-visibility: visible; display: block; }
}
`;
