// The default model moves between two while requests are in flight: each answer is one model's, whole.
import t from 'tap';
import { shippedSampleFolder } from '../../src/services/sample-model.ts';
import { registerTinyModel } from '../support/models.ts';
import { startTestServer } from '../support/server.ts';

t.test('an alias that moves under load', async (t) => {
  const { call, ...server } = await startTestServer(t, { sampleFolder: shippedSampleFolder });
  const tiny = await registerTinyModel({ call, ...server });
  const { id: sample } = (await call('GET', '/v1/models/token-reward')).body;
  const responses = ['Hello there', 'I am fine.', 'Dear Anna, hello.', 'Dear Bob, hello.'];
  const score = (json: object) =>
    call('POST', '/v1/score', { json: { prompt: 'Say hello.', responses, ...json } });
  const rewardsOf = (body: { results: { rewards: number[] }[] }) =>
    body.results.map(({ rewards }) => rewards);
  const expected = new Map<string, number[][]>();
  for (const model of [sample, tiny]) expected.set(model, rewardsOf((await score({ model })).body));
  t.notSame(expected.get(sample), expected.get(tiny));

  let moving = true;
  const seen = new Map<string, number>([
    [sample, 0],
    [tiny, 0],
  ]);
  const client = async (): Promise<void> => {
    while (moving) {
      const { status, body } = await score({});
      if (status !== 200) throw new Error(JSON.stringify(body));
      t.same(rewardsOf(body), expected.get(body.model.id));
      seen.set(body.model.id, seen.get(body.model.id)! + 1);
    }
  };
  const clients = Array.from({ length: 8 }, client);
  for (let n = 0; n < 12; n++) {
    const model_id = n % 2 === 0 ? tiny : sample;
    t.equal((await call('PUT', '/v1/aliases/token-reward', { json: { model_id } })).status, 200);
    const before = seen.get(model_id)!;
    while (seen.get(model_id)! === before) await score({});
  }
  moving = false;
  await Promise.all(clients);
});
