// The folders that finegrain writes to, and who can read what must stay private.
import { existsSync } from 'node:fs';
import { mkdtemp, rmdir, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import type { Config } from '../config.ts';
import { type ArtifactPlace, openArtifacts, placeName } from '../storage/artifact-place.ts';
import { type Check, type Finding, failed, ok, warning } from './check.ts';

const megabyte = 2 ** 20;
const leastFree = 200 * megabyte; // the embedded database alone takes 60 MB
const littleFree = 2048 * megabyte; // a few checkpoints of a small model
const privateFiles = ['api-key', 'secret-key'];

export function fileChecks({ dataDir, artifacts, artifactCache }: Config): Check[] {
  const folders = 'folder' in artifacts ? [dataDir, artifacts.folder] : [dataDir];
  return [
    { name: 'data folder', run: () => checkWritable(dataDir, 'FINEGRAIN_DATA_DIR') },
    { name: 'disk space', run: () => checkSpace([...new Set(folders.map(nearestExisting))]) },
    { name: 'key files', run: () => checkPrivate(dataDir) },
    { name: 'artifact store', run: () => checkArtifacts(artifacts, artifactCache) },
  ];
}

async function checkWritable(folder: string, variable: string): Promise<Finding> {
  const existing = nearestExisting(folder);
  const will = existing === folder ? 'is writable' : 'does not exist yet and can be made';
  const stranger = await ownedBySomeoneElse(existing);
  if (stranger) return stranger;
  try {
    await rmdir(await mkdtemp(join(existing, '.finegrain-doctor-')));
    return ok(`${folder} ${will}`);
  } catch (error) {
    return failed(
      `${folder} cannot be written: ${(error as Error).message}`,
      `Give it to the user who runs finegrain (uid ${process.getuid?.()}), or set ${variable} to another folder.`,
    );
  }
}

/** Root may write anywhere, which says nothing about the service, and what root writes the service may not change. */
async function ownedBySomeoneElse(folder: string): Promise<Finding | null> {
  const { uid } = await stat(folder);
  if (process.getuid?.() !== 0 || uid === 0) return null;
  return warning(
    `${folder} belongs to uid ${uid}`,
    'Run the doctor as the user who runs finegrain, not as root.',
  );
}

async function checkSpace(folders: string[]): Promise<Finding> {
  const free = await Promise.all(
    folders.map(async (folder) => {
      const { bavail, bsize } = await statfs(folder);
      return { folder, bytes: bavail * bsize };
    }),
  );
  const { folder, bytes } = free.sort((a, b) => a.bytes - b.bytes)[0]!;
  const detail = `${Math.round(bytes / megabyte)} MiB are free for ${folder}`;
  const advice = 'Make room, or move FINEGRAIN_DATA_DIR and FINEGRAIN_ARTIFACTS to a larger disk.';
  if (bytes < leastFree) return failed(detail, advice);
  return bytes < littleFree ? warning(detail, advice) : ok(detail);
}

async function checkPrivate(dataDir: string): Promise<Finding> {
  const files = privateFiles.map((name) => join(dataDir, name)).filter((file) => existsSync(file));
  const open: string[] = [];
  for (const file of files) if ((await stat(file)).mode & 0o077) open.push(file);
  if (open.length > 0)
    return failed(
      `others can read ${open.join(', ')}`,
      `chmod 600 ${open.map((file) => `'${file}'`).join(' ')}`,
    );
  return ok(
    files.length === 0 ? 'none are kept in the data folder' : `${files.join(', ')}: for their owner only`,
  );
}

/** Stores a line that is the same every time, so that the store grows by it once at most. */
async function checkArtifacts(place: ArtifactPlace, cache: Config['artifactCache']): Promise<Finding> {
  if ('folder' in place) {
    const stranger = await ownedBySomeoneElse(nearestExisting(place.folder));
    if (stranger) return stranger;
  }
  const line = 'finegrain doctor\n';
  try {
    const store = await openArtifacts(place, cache);
    const { digest } = await store.put(Readable.from([Buffer.from(line)]));
    const found = await text(store.read(digest));
    if (found !== line) throw new Error(`${digest} came back changed`);
    await store.checkWritable(); // a bucket may be listed as well
    return ok(`${placeName(place)} takes and gives back`);
  } catch (error) {
    return failed(
      `${placeName(place)} cannot be used: ${(error as Error).message}`,
      'folder' in place
        ? `Give it to the user who runs finegrain (uid ${process.getuid?.()}), or set FINEGRAIN_ARTIFACTS to another folder, the same for API and runners.`
        : 'Check the bucket, AWS_ENDPOINT_URL_S3, AWS_REGION and the credentials; they must allow to list the bucket, and to get, put and delete its objects.',
    );
  }
}

function nearestExisting(folder: string): string {
  return existsSync(folder) ? folder : nearestExisting(dirname(folder));
}
