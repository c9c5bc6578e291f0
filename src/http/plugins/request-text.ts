// Refuses JSON bodies and queries with text that is not Unicode or cannot be stored, with the pointer to it; a path
// with such text names nothing.
import fp from 'fastify-plugin';
import { Problem, type ProblemDetail } from '../../errors.ts';
import { findIllFormedText } from '../../services/text-checks.ts';

const jsonType = /^application\/json *(;|$)/i;

function refuseIllFormed(value: unknown, part: ProblemDetail['in'] & string): void {
  const wrong = findIllFormedText(value);
  if (!wrong) return;
  throw new Problem(
    part === 'params' ? 'not_found' : 'ill_formed_text',
    `${wrong.pointer || `The ${part}`} ${wrong.detail}.`,
    { errors: [{ ...wrong, in: part }] },
  );
}

export const requestText = fp(async (app) => {
  app.addHook('preValidation', async (request) => {
    refuseIllFormed(request.params, 'params');
    refuseIllFormed(request.query, 'query');
    if (jsonType.test(request.headers['content-type'] ?? '')) refuseIllFormed(request.body, 'body');
  });
});
