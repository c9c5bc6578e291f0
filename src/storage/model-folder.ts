// Model folders: the files of a registered model under their own names, as programs that open folders need them.
// A folder lies under its model's digest, is written aside and renamed, so what is there is whole. Files are hard links
// into the artifact store where the file system allows it: never write to them.
import { randomUUID } from 'node:crypto';
import { constants, copyFile, link, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ArtifactStore } from './artifact-store.ts';

export interface ModelFile {
  /** relative, with `/` between its parts */
  path: string;
  /** `sha256:` and 64 hex digits */
  digest: string;
  bytes: number;
}

export interface StoredModel {
  /** digest of the list of files, see modelDigest */
  digest: string;
  files: ModelFile[];
}

/** True for a path that stays inside a folder on every file system: no parent, no root, no drive, nothing hidden in it. */
export function isModelFilePath(path: string): boolean {
  return (
    path.length <= 200 && path.split('/').every((part) => /^[\w][\w.-]*$/.test(part) && !part.endsWith('.'))
  );
}

/**
 * The folder of a model below `cacheFolder`, made if it is not there yet.
 * @throws Error for a path that leaves the folder, and for a file that the store does not have
 */
export async function materialiseModel(
  cacheFolder: string,
  artifacts: ArtifactStore,
  model: StoredModel,
): Promise<string> {
  const hex = /^sha256:([0-9a-f]{64})$/.exec(model.digest)?.[1];
  if (!hex) throw new Error(`not a model digest: ${model.digest}`);
  const folder = join(cacheFolder, hex);
  if (await exists(folder)) return folder;
  const aside = join(cacheFolder, `incoming-${randomUUID()}`);
  try {
    for (const { path, digest } of model.files) {
      if (!isModelFilePath(path))
        throw new Error(`the model lists a file that is not inside its folder: ${JSON.stringify(path)}`);
      const target = join(aside, path);
      await mkdir(dirname(target), { recursive: true });
      await linkOrCopy(await artifacts.localPath(digest), target);
    }
    await rename(aside, folder).catch(async (error) => {
      if (!(await exists(folder))) throw error; // otherwise another process was first, with the same files
    });
    return folder;
  } finally {
    await rm(aside, { recursive: true, force: true });
  }
}

async function linkOrCopy(source: string, target: string): Promise<void> {
  try {
    await link(source, target);
  } catch (error) {
    // another file system, or one without hard links
    if (
      !['EXDEV', 'EPERM', 'EMLINK', 'ENOTSUP', 'ENOSYS'].includes((error as NodeJS.ErrnoException).code ?? '')
    )
      throw error;
    await copyFile(source, target, constants.COPYFILE_EXCL);
    const file = await open(target, 'r');
    await file.sync().finally(() => file.close());
  }
}

function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return false;
      throw error;
    },
  );
}
