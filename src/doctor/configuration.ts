// Node and the environment variables.
import type { ConfigInspection } from '../config.ts';
import { type Check, failed, ok, warning } from './check.ts';

const minimumNode = [20, 20]; // `engines` of package.json

/** Variables of the commands around the service, which config.ts does not read. */
const namesElsewhere = ['FINEGRAIN_PGBOUNCER', 'FINEGRAIN_URL'];

export function configurationChecks({ wrong, known, given }: ConfigInspection): Check[] {
  return [
    {
      name: 'node',
      async run() {
        const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
        if (major > minimumNode[0]! || (major === minimumNode[0] && minor >= minimumNode[1]!))
          return ok(`Node ${process.versions.node}`);
        return failed(`Node ${process.versions.node}`, `Install Node ${minimumNode.join('.')} or newer.`);
      },
    },
    {
      name: 'configuration',
      async run() {
        if (wrong.length > 0) return failed(wrong.join(' '), 'Correct or unset it.');
        const names = [...known, ...namesElsewhere];
        const unknown = given.filter((name) => name.startsWith('FINEGRAIN_') && !names.includes(name));
        if (unknown.length === 0)
          return ok(`${given.filter((name) => known.has(name)).length} variables are set`);
        const hints = unknown.map((name) => `${nearest(name, names)} for ${name}`);
        return warning(
          `finegrain does not know ${unknown.join(', ')}`,
          `Unset, or correct what was meant; the nearest names are: ${hints.join(', ')}.`,
        );
      },
    },
  ];
}

function nearest(name: string, names: string[]): string {
  return names.map((known) => ({ known, far: distance(name, known) })).sort((a, b) => a.far - b.far)[0]!
    .known;
}

/** How many letters must be inserted, deleted or replaced (Levenshtein). */
function distance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, i) => i);
  for (const [i, letter] of [...one].entries()) {
    const above = row;
    row = [i + 1];
    for (let j = 0; j < other.length; j++)
      row.push(Math.min(above[j + 1]! + 1, row[j]! + 1, above[j]! + (letter === other[j] ? 0 : 1)));
  }
  return row.at(-1)!;
}
