// Part of the build: bundles packages, as a module costs Node half a millisecond to find and load, and typebox alone has
// 709 of them (docs/adr/0032). What they share lies in chunks, so that each module of a package exists once.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** What each start needs, as far as it has no native parts. */
const bundled = [
  '@fastify/ajv-compiler',
  '@fastify/cors',
  '@fastify/swagger',
  '@fastify/swagger-ui',
  'canonicalize',
  'fastify',
  'fastify-plugin',
  'graphile-worker',
  'ipaddr.js',
  'pg',
  'pino',
  'prom-client',
  'rate-limiter-flexible',
  'typebox',
  'typebox/compile',
  'typebox/value',
  'undici',
  'uuid',
];
const optional = ['pg-native', 'typescript']; // asked for by bundled ones, and not needed

export const folderOfBundles = path.join('dist', 'packages');

// in each bundle: CommonJS asks for the modules of Node, and for the folder that it lies in
const commonJsNeeds = `
import { createRequire as makeRequire } from 'node:module';
import { fileURLToPath as urlToPath } from 'node:url';
const require = makeRequire(import.meta.url);
const packageFolder = (relative) => urlToPath(new URL(relative, import.meta.url));
`.trim();

/** The file of a package's bundle; null for a package that has none. */
export const bundleOf = (specifier) =>
  bundled.includes(specifier) ? path.join(folderOfBundles, `${nameOf(specifier)}.js`) : null;

const nameOf = (specifier) => specifier.replace(/\W+/g, '-').replace(/^-/, '');

/** Changes when the bundles would: with what npm installed, and with this file. */
export function versionOfBundles() {
  const hash = createHash('sha256');
  for (const file of ['node_modules/.package-lock.json', fileURLToPath(import.meta.url)])
    hash.update(readFileSync(file));
  return hash.digest('hex');
}

/** Resolves to `{ path, contents }` for each file that is to be written. */
export async function bundlePackages() {
  const { build } = await import('esbuild');
  const { outputFiles } = await build({
    entryPoints: bundled.map((specifier) => ({ in: `entry:${specifier}`, out: nameOf(specifier) })),
    plugins: [
      { name: 'entries', setup: answerEntries },
      { name: 'folders', setup: keepFolders },
    ],
    external: optional,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    outdir: folderOfBundles,
    write: false,
    legalComments: 'inline',
    banner: { js: commonJsNeeds },
  });
  return outputFiles.map(({ path: file, contents }) => ({ path: path.relative('.', file), contents }));
}

/** A package in CommonJS has names that only running it tells. */
function answerEntries({ onResolve, onLoad }) {
  onResolve({ filter: /^entry:/ }, ({ path: entry }) => ({
    path: `${entry.slice('entry:'.length)}.mjs`, // the end makes esbuild import CommonJS as Node does
    namespace: 'entry',
  }));
  onLoad({ filter: /./, namespace: 'entry' }, async ({ path: entry }) => {
    const specifier = entry.slice(0, -'.mjs'.length);
    const names = Object.keys(await import(specifier)).filter((name) => name !== 'module.exports');
    return { contents: `export { ${names.join(', ')} } from '${specifier}';`, resolveDir: '.' };
  });
}

/** Where a package has files that it reads, they are still where they were. */
function keepFolders({ onLoad }) {
  onLoad({ filter: /\bnode_modules\b.*\.c?js$/ }, async ({ path: file }) => {
    const code = await readFile(file, 'utf8');
    if (!/\b__dirname\b/.test(code)) return undefined;
    const folder = path.relative(folderOfBundles, path.dirname(file)).replaceAll('\\', '/');
    return { contents: `const __dirname = packageFolder('${folder}');${code}` };
  });
}
