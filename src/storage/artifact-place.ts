// Where artifacts are kept: in a folder of this machine, or in a bucket of an S3-compatible store.
import { type ArtifactStore, openArtifactStore } from './artifact-store.ts';

export interface S3Place {
  bucket: string;
  /** '' or ends with a slash */
  prefix: string;
  /** null: Amazon's own */
  endpoint: string | null;
  /** null: what the SDK finds, in its profile or in the environment of the machine */
  region: string | null;
  /** the bucket in the path instead of the host name, as most servers but Amazon's want it */
  pathStyle: boolean;
}

export type ArtifactPlace = { folder: string } | S3Place;

/** For people. */
export const placeName = (place: ArtifactPlace): string =>
  'folder' in place ? place.folder : `s3://${place.bucket}/${place.prefix}`;

/** @param cache for what is fetched from afar to be opened as a file; bounded */
export async function openArtifacts(
  place: ArtifactPlace,
  cache: { folder: string; bytes: number },
): Promise<ArtifactStore> {
  if ('folder' in place) return openArtifactStore(place.folder);
  const { openS3Store } = await import('./s3-store.ts'); // the SDK takes a while to load
  return openS3Store(place, { cache });
}
