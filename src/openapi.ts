// The OpenAPI document as it is committed. Routes only describe themselves here, so nothing is opened or connected.
import { type AppOptions, buildApp } from './app.ts';

export async function openApiDocument(): Promise<string> {
  const unused = {} as AppOptions['services'];
  const app = await buildApp({ services: unused, bootstrapKey: null });
  await app.ready();
  const document = JSON.stringify(app.swagger(), null, 2);
  await app.close();
  return `${document}\n`;
}
