// The least client that the examples need: JSON in and out, problems as errors. It knows nothing of the service's code.
export interface Client {
  // biome-ignore lint/suspicious/noExplicitAny: the answers' shapes are in the OpenAPI document
  request(method: string, path: string, json?: unknown): Promise<any>;
  /** Sends rows as NDJSON, streamed. */
  // biome-ignore lint/suspicious/noExplicitAny: as above
  upload(path: string, rows: Iterable<unknown>): Promise<any>;
  /** Reads an NDJSON answer. */
  // biome-ignore lint/suspicious/noExplicitAny: as above
  download(path: string): Promise<any[]>;
  /** Reads an answer as it is. */
  file(path: string): Promise<Uint8Array>;
}

export function createClient(url: string, key: string): Client {
  const send = async (method: string, path: string, init: RequestInit): Promise<Response> => {
    const response = await fetch(url + path, {
      method,
      ...init,
      headers: { authorization: `Bearer ${key}`, ...init.headers },
    });
    if (response.ok) return response;
    const problem = (await response.json()) as {
      code: string;
      detail: string;
      errors?: { pointer: string; detail: string }[];
    };
    const errors = (problem.errors ?? [])
      .map((error: { pointer: string; detail: string }) => `\n  ${error.pointer} ${error.detail}`)
      .join('');
    const message = `${method} ${path} answered ${response.status} ${problem.code}: ${problem.detail}${errors}`;
    throw Object.assign(new Error(message), { code: problem.code });
  };
  return {
    async request(method, path, json) {
      const body =
        json === undefined
          ? {}
          : { body: JSON.stringify(json), headers: { 'content-type': 'application/json' } };
      const response = await send(method, path, body);
      return response.status === 204 ? undefined : response.json();
    },
    async upload(path, rows) {
      const body = ReadableStream.from(ndjson(rows)).pipeThrough(new TextEncoderStream());
      const response = await send('POST', path, {
        body,
        duplex: 'half',
        headers: { 'content-type': 'application/x-ndjson' },
      } as RequestInit);
      return response.json();
    },
    async download(path) {
      const text = await (await send('GET', path, {})).text();
      return text.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line)]));
    },
    async file(path) {
      return new Uint8Array(await (await send('GET', path, {})).arrayBuffer());
    },
  };
}

function* ndjson(rows: Iterable<unknown>): Generator<string> {
  for (const row of rows) yield `${JSON.stringify(row)}\n`;
}
