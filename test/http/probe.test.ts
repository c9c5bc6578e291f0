import t from 'tap';
import { startTestServer } from '../support/server.ts';
t.test('x', async (t) => {
  const { call } = await startTestServer(t, { log: { write: (s: string) => { if (s.includes('"level":50') || s.includes('err')) process.stderr.write(s.slice(0, 3000)); } } as never });
  const r = [{ id: 'a', prompt: 'b', response: 'c' }];
  const a = await call('POST', '/v1/evaluations', { json: { candidates: [{ responses: r }], baseline: { responses: r }, judge: { kind: 'external' } } });
  process.stderr.write(`${a.status} ${a.text}\n`);
  t.equal(a.status, 202);
});
