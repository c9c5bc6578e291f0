// A process that stores one file, to be killed while it does: put-file.ts PATH PART_BYTES.
import { readConfig } from '../../src/config.ts';
import type { S3Place } from '../../src/storage/artifact-place.ts';
import { openS3Store } from '../../src/storage/s3-store.ts';

const [path, partBytes] = process.argv.slice(2);
const { artifacts, artifactCache } = readConfig();
const store = openS3Store(artifacts as S3Place, {
  cache: artifactCache,
  limits: { partBytes: Number(partBytes) },
});
await store.putFile(path!);
