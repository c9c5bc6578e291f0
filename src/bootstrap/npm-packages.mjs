// `npm ci`, when what is installed is not what package-lock.json asks for. npm writes down what it installed as the
// last thing it does, so an interrupted installation is noticed as well, and one made by hand is accepted.
import { readFileSync } from 'node:fs';
import { withLock } from './lock.mjs';
import { step } from './steps.mjs';

const advice =
  'Look at the message of npm above. Without a network npm needs a filled cache; behind a proxy set HTTPS_PROXY; ' +
  'another registry is set with `npm config set registry`.';

/** @param forDevelopment whether `devDependencies` are needed; an installation that we make always has them */
export async function ensureNpmPackages({ forDevelopment }) {
  if (isInstalled(forDevelopment)) return;
  await withLock('.finegrain/npm.lock', async () => {
    if (isInstalled(forDevelopment)) return; // by the process that we waited for
    const args = ['ci', '--include=dev', '--include=optional', '--no-audit', '--no-fund', '--loglevel=error'];
    const npm = process.env.npm_execpath; // the npm that runs us, as a JavaScript file
    const [command, ...first] = npm?.endsWith('.js') ? [process.execPath, npm] : ['npm'];
    await step('Installing npm packages', command, [...first, ...args], { advice });
  });
}

function isInstalled(forDevelopment) {
  const wanted = JSON.parse(readFileSync('package-lock.json', 'utf8')).packages;
  const installed = readInstalled();
  return Object.entries(wanted).every(([location, { version, optional, devOptional, dev }]) => {
    if (location === '' || optional || devOptional || (dev && !forDevelopment)) return true;
    return installed[location]?.version === version;
  });
}

function readInstalled() {
  try {
    return JSON.parse(readFileSync('node_modules/.package-lock.json', 'utf8')).packages;
  } catch {
    return {}; // missing, or cut off while it was written
  }
}
