// A run survives a bucket that fails for a while.
import t from 'tap';
import { openS3Store } from '../../src/storage/s3-store.ts';
import { fakePython, queueFake, startRunner, untilEnded } from '../support/runner.ts';
import { createBucket, useS3Server } from '../support/s3.ts';
import { startS3Proxy } from '../support/s3-proxy.ts';
import { startTestServer } from '../support/server.ts';

t.setTimeout(180_000);

const endpoint = await useS3Server(t);
t.test('the artifact store fails', { skip: endpoint === null && 'there is no S3 server' }, async (t) => {
  const bucket = await createBucket(t, endpoint!);
  const proxy = await startS3Proxy(t, endpoint!); // before the runner only
  const artifacts = openS3Store(bucket, { cache: { folder: `${t.testdir()}/cache`, bytes: 1e9 } });
  const server = await startTestServer(t, { artifacts });
  const python = await fakePython(server.dataDir);
  const env = { ...bucket.env, AWS_ENDPOINT_URL_S3: proxy.endpoint };
  const runner = startRunner(t, server, { python, env });
  const triedAgain = () => runner.log().split('the artifact store cannot be used, trying again').length - 1;

  t.test('while inputs are fetched, and while checkpoints, artifacts and the model are stored', async (t) => {
    const failing = new Map<string, number>();
    proxy.judge = (operation) => {
      const failures = failing.get(operation) ?? 0;
      failing.set(operation, failures + 1);
      return failures < 2 ? 403 : 'pass'; // each kind of request fails twice
    };
    const { id } = await queueFake(server, 'succeed');
    t.match(await untilEnded(server, id, 60), { state: 'succeeded', attempts: [{ outcome: 'succeeded' }] });
    for (const operation of ['GetObject', 'PutObject']) t.ok(failing.get(operation)! > 2, operation);
    t.ok(triedAgain() >= 4, 'tried again');
  });
});
