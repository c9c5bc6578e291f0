// Refuses JSON bodies with text that is not Unicode, with the pointer to it.
import fp from 'fastify-plugin';
import { Problem } from '../../errors.ts';
import { findIllFormedText } from '../../services/text-checks.ts';

export const requestText = fp(async (app) => {
  app.addHook('preValidation', async (request) => {
    if (request.headers['content-type']?.startsWith('application/json') !== true) return;
    const wrong = findIllFormedText(request.body);
    if (wrong) {
      throw new Problem('ill_formed_text', `${wrong.pointer || 'The body'} ${wrong.detail}.`, {
        errors: [{ ...wrong, in: 'body' }],
      });
    }
  });
});
