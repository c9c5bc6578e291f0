// The real trainer under a real runner: a run that is killed half-way ends with the same weights, bit for bit.
import t from 'tap';
import { eventsOf, queueSft, startRunner, trainerPython, untilEnded, untilRun } from '../support/runner.ts';
import { startTestServer } from '../support/server.ts';

const python = trainerPython();
t.setTimeout(300_000);

t.test('trainer', { skip: python === null && 'no Python environment' }, async (t) => {
  const server = await startTestServer(t);
  const rows = Array.from({ length: 240 }, (_, i) => ({
    prompt: `What is twice ${i}?`,
    response: `Twice ${i} is ${2 * i}.`,
    split: i % 12 ? 'train' : 'validation',
  }));
  const spec = {
    base_model: { scratch: { hidden_size: 32, num_layers: 1, vocab_size: 300, context_length: 128 } },
    hyperparameters: { epochs: 12, batch_size: 16, checkpoint_every: 10 },
  };
  const modelOf = async (id: string) => (await server.call('GET', `/v1/models/${id}`)).body;

  const first = startRunner(t, server, { python: python!, name: 'first' });
  const undisturbed = await queueSft(server, rows, {}, spec);
  const whole = await untilEnded(server, undisturbed.id, 120);
  t.match(whole, {
    state: 'succeeded',
    progress: { fraction: 1 },
    result: { train_examples: 220, validation_examples: 20 },
    attempts: [{ outcome: 'succeeded' }],
  });
  t.ok(await modelOf(whole.model_id!), 'the model is registered');

  const { id } = await queueSft(server, rows, {}, spec);
  await untilRun(server, id, ({ progress }) => progress?.stage === 'train' && progress.step > 20, 60);
  first.process.kill('SIGKILL');
  startRunner(t, server, { python: python!, name: 'second' });
  const resumed = await untilEnded(server, id, 120);
  t.match(resumed.attempts, [{ outcome: 'lost' }, { outcome: 'succeeded' }]);
  const told = await eventsOf(server, id);
  t.ok(told.some(({ attempt, data }) => attempt === 2 && /^resuming after step/.test(String(data.message))));
  t.equal((await modelOf(resumed.model_id!)).digest, (await modelOf(whole.model_id!)).digest);

  const samples = await server.call('POST', '/v1/artifacts', {
    body: '{"prompt":"What is twice 3?"}\n{"id":"four","prompt":"What is twice 4?"}\n',
    headers: { 'content-type': 'application/x-ndjson' },
  });
  const generate = await server.call('POST', '/v1/runs', {
    json: {
      kind: 'generate',
      spec: {
        model: { model_id: resumed.model_id },
        prompts: { prompts: samples.body.digest },
        hyperparameters: { max_new_tokens: 5 },
      },
    },
  });
  const generated = await untilEnded(server, generate.body.id, 60);
  t.match(generated, { state: 'succeeded', artifacts: [{ name: 'responses.ndjson' }], model_id: null });
  const responses = await server.call('GET', `/v1/artifacts/${generated.artifacts[0]!.digest}`);
  t.match(
    responses.text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line)),
    [
      { id: '1', prompt: 'What is twice 3?', response: String, token_ids: Array },
      { id: 'four', prompt: 'What is twice 4?' },
    ],
  );
});
