// `npm run build`: makes dist/, from which every program runs, as Node 20 cannot run TypeScript (docs/adr/0021). dist/ is
// the project with the types of its TypeScript blanked out, so that each line and column of a stack trace is the source's;
// all else in it are links. The packages that each start would read from hundreds of small files are bundled (docs/adr/0032).
// What is up to date stays as it is. Several builds at once do not disturb each other.
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
import { bundleOf, bundlePackages, folderOfBundles, versionOfBundles } from './build-packages.mjs';
import { filesIn } from './files-in.mjs';

process.chdir(fileURLToPath(new URL('..', import.meta.url)));
const folder = 'dist';
const sources = ['src', 'test', 'examples', 'bench'].filter((name) => existsSync(name));
const notLinked = /^(\.|dist$|node_modules$)/; // Node finds the packages of the folder above
const unfinishedName = /\.\d+\.part$/; // of another build perhaps
const made = new Set();
let compiled = 0;

try {
  for (const name of readdirSync('.')) if (!sources.includes(name) && !notLinked.test(name)) link(name);
  const newBundles = await bundle();
  for (const file of sources.flatMap(filesIn)) {
    if (file.endsWith('.ts')) await compile(file, newBundles);
    else link(file);
  }
  for (const file of filesIn(folder))
    if (!made.has(file) && !unfinishedName.test(file)) rmSync(file, { force: true });
} catch (error) {
  process.stderr.write(`The build failed: ${error?.message ?? error}\n`);
  process.exit(1);
}
if (compiled > 0) process.stderr.write(`Build: ${compiled} files, done in ${seconds()} s\n`);

/** True when there are new ones, so that what imports them is compiled anew. */
async function bundle() {
  const version = versionOfBundles();
  const list = path.join(folderOfBundles, 'made.json'); // the last of them to be written
  made.add(list);
  let there = readJson(list);
  const isOld = there?.version !== version;
  if (isOld) {
    const files = await bundlePackages();
    for (const { path: file, contents } of files) writeWhole(file, contents);
    there = { version, files: files.map(({ path: file }) => file) };
    writeWhole(list, JSON.stringify(there));
  }
  for (const file of there.files) made.add(file);
  return isOld;
}

/** Its output carries the time of its source: another time, older or newer, is another source. */
async function compile(file, anew) {
  const target = path.join(folder, file.replace(/\.ts$/, '.js'));
  made.add(target);
  const { atime, mtime } = statSync(file);
  if (!anew && statSync(target, { throwIfNoEntry: false })?.mtime.getTime() === mtime.getTime()) return;
  const code = await toJavaScript(readFileSync(file, 'utf8'), file);
  writeWhole(target, code, (unfinished) => utimesSync(unfinished, atime, mtime));
  compiled += 1;
}

async function toJavaScript(source, file) {
  const [{ transformSync }, { parse }] = await Promise.all([
    import('@swc/wasm-typescript'),
    import('es-module-lexer'),
  ]);
  try {
    const { code } = transformSync(source, { mode: 'strip-only' });
    return withImportsOfBuild(code, parse(code)[0], path.dirname(path.join(folder, file)));
  } catch (error) {
    throw new Error(`${file}:${error.startLine ?? ''} ${error.message}`);
  }
}

/** In import, export … from and import(), './x.ts' becomes './x.js' and the name of a bundled package its file. */
function withImportsOfBuild(code, imports, importer) {
  let result = '';
  let at = 0;
  for (const { specifier, start, end, type } of imports) {
    const name = nameInBuild(specifier ?? '', importer);
    if (name === null) continue;
    const quote = type === 'dynamic' ? 1 : 0; // there the quotes belong to it
    result += code.slice(at, start + quote) + name;
    at = end - quote;
  }
  return result + code.slice(at);
}

function nameInBuild(specifier, importer) {
  if (/^\.{1,2}\/.*\.ts$/.test(specifier)) return specifier.replace(/ts$/, 'js');
  const bundle = bundleOf(specifier);
  return (
    bundle &&
    path
      .relative(importer, bundle)
      .replace(/^(?!\.)/, './')
      .replaceAll('\\', '/')
  );
}

/** A reader finds the old file or the new one, never half of one. */
function writeWhole(file, contents, beforeItIsSeen = () => {}) {
  const unfinished = `${file}.${process.pid}.part`;
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(unfinished, contents);
  beforeItIsSeen(unfinished);
  renameSync(unfinished, file);
}

function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return null; // missing
  }
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

function seconds() {
  return (performance.now() / 1000).toFixed(1);
}
