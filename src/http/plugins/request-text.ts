// Refuses queries with text that cannot be stored, with the pointer to it; a path with such text names nothing. Of
// bodies json-bodies.ts does the same.
import fp from 'fastify-plugin';
import { Problem, type ProblemDetail } from '../../errors.ts';
import { findFault } from '../../services/json-input.ts';

function refuse(value: unknown, part: 'params' | 'query'): void {
  const fault = findFault(value);
  if (!fault) return;
  const { pointer, detail } = fault;
  const errors: ProblemDetail[] = [{ pointer, detail, in: part }];
  throw new Problem(part === 'params' ? 'not_found' : 'ill_formed_text', `${pointer} ${detail}.`, { errors });
}

export const requestText = fp(async (app) => {
  app.addHook('preValidation', async (request) => {
    refuse(request.params, 'params');
    refuse(request.query, 'query');
  });
});
