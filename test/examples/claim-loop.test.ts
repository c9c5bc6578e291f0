// The loop of an outside annotation program, against a server of the test's own.
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { workOff } from '../../examples/claim-loop.ts';
import { createClient } from '../../examples/client.ts';
import { startTestServer } from '../support/server.ts';

t.test('the claim loop holds its tasks while the editor thinks', async (t) => {
  const server = await startTestServer(t);
  const dataset = (await server.call('POST', '/v1/datasets', { json: { name: 'bridges' } })).body.id;
  const pairs = ['slow', 'slower'].map((prompt) => ({
    prompt,
    response_a: 'It was opened in 1936.',
    response_b: 'In 1932.',
    preference: 'b',
  }));
  await server.call('POST', `/v1/datasets/${dataset}/pairs`, { json: { pairs } });
  const json = { dataset_id: dataset, editor: 'program' };
  const request = (await server.call('POST', '/v1/edit-requests', { json })).body;
  const editor = { kind: 'llm', name: 'slow' } as const;
  const work = { requestId: request.id, editor, leaseSeconds: 5, batchSize: 2, inFlight: 1 };
  const slowly = async () => {
    await sleep(3500);
    return { edited_response: 'It was opened in 1932.' };
  };
  const told: object[] = [];
  await workOff(createClient(server.url, server.bootstrapKey), work, slowly, (done) =>
    told.push({ ...done }),
  );
  t.same(told.at(-1), { claimed: 2, edited: 2, skipped: 0, late: 0 });
});
