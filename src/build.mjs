// `npm run build`: makes dist/, from which every program runs, as Node 20 cannot run TypeScript (docs/adr/0021). dist/ is
// the project with the types of its TypeScript blanked out, so that each line and column of a stack trace is the source's;
// all else in it are links. What is up to date stays as it is. Several builds at once do not disturb each other.
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));
const folder = 'dist';
const sources = ['src', 'test', 'examples', 'bench'].filter((name) => existsSync(name));
const notLinked = /^(\.|dist$|node_modules$)/; // Node finds the packages of the folder above
const unfinishedName = /\.js\.\d+$/; // of another build perhaps
const made = new Set();
let compiled = 0;

try {
  for (const name of readdirSync('.')) if (!sources.includes(name) && !notLinked.test(name)) link(name);
  for (const file of sources.flatMap(filesIn)) {
    if (file.endsWith('.ts')) await compile(file);
    else link(file);
  }
  for (const file of filesIn(folder))
    if (!made.has(file) && !unfinishedName.test(file)) rmSync(file, { force: true });
} catch (error) {
  process.stderr.write(`The build failed: ${error?.message ?? error}\n`);
  process.exit(1);
}
if (compiled > 0) process.stderr.write(`Build: ${compiled} files, done in ${seconds()} s\n`);

/** Its output carries the time of its source: another time, older or newer, is another source. */
async function compile(file) {
  const target = path.join(folder, file.replace(/\.ts$/, '.js'));
  made.add(target);
  const { atime, mtime } = statSync(file);
  if (statSync(target, { throwIfNoEntry: false })?.mtime.getTime() === mtime.getTime()) return;
  const code = await toJavaScript(readFileSync(file, 'utf8'), file);
  const unfinished = `${target}.${process.pid}`;
  mkdirSync(path.dirname(target), { recursive: true });
  writeFileSync(unfinished, code);
  utimesSync(unfinished, atime, mtime);
  renameSync(unfinished, target);
  compiled += 1;
}

async function toJavaScript(source, file) {
  const [{ transformSync }, { parse }] = await Promise.all([
    import('@swc/wasm-typescript'),
    import('es-module-lexer'),
  ]);
  try {
    const { code } = transformSync(source, { mode: 'strip-only' });
    return withJavaScriptImports(code, parse(code)[0]);
  } catch (error) {
    throw new Error(`${file}:${error.startLine ?? ''} ${error.message}`);
  }
}

/** './x.ts' becomes './x.js', in import, export … from and import(). */
function withJavaScriptImports(code, imports) {
  let result = '';
  let at = 0;
  for (const { specifier, end, type } of imports) {
    if (!/^\.{1,2}\/.*\.ts$/.test(specifier ?? '')) continue;
    const endOfName = type === 'dynamic' ? end - 1 : end; // there the quotes belong to it
    result += `${code.slice(at, endOfName - 'ts'.length)}js`;
    at = endOfName;
  }
  return result + code.slice(at);
}

function link(file) {
  const target = path.join(folder, file);
  made.add(target);
  if (lstatSync(target, { throwIfNoEntry: false })) return;
  mkdirSync(path.dirname(target), { recursive: true });
  try {
    symlinkSync(path.relative(path.dirname(target), file), target);
  } catch (error) {
    if (error.code !== 'EEXIST') throw error; // another build was quicker
  }
}

function filesIn(top) {
  return readdirSync(top, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => path.join(entry.parentPath ?? entry.path, entry.name));
}

function seconds() {
  return (performance.now() / 1000).toFixed(1);
}
