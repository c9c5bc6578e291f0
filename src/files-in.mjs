// The files below a folder. Links are files, whatever they lead to: readdirSync with `recursive` and `withFileTypes` goes into
// linked folders from some Node 24 on, and the build would take the project's own files for leftovers in dist/.
import { readdirSync } from 'node:fs';
import path from 'node:path';

/** Paths that begin with `folder`, links among them. */
export function filesIn(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const name = path.join(folder, entry.name);
    return entry.isDirectory() ? filesIn(name) : [name];
  });
}
