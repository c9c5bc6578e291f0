// HTTP as bytes on a socket: for what fetch cannot send, and for clients that do not behave.
import { connect, type Socket } from 'node:net';

export interface RawAnswer {
  status: number;
  reason: string;
  /** names in lower case; the last of equal ones */
  headers: Record<string, string>;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests read what the document promises
  body: any;
}

/** A connection to the service; what it sends is kept. */
export function openSocket(url: string): Promise<Socket & { received: () => string }> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname);
    const chunks: Buffer[] = [];
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.once('error', reject);
    socket.once('connect', () => {
      socket.off('error', reject);
      socket.on('error', () => {}); // the service may end the connection at any time
      resolve(Object.assign(socket, { received: () => Buffer.concat(chunks).toString('latin1') }));
    });
  });
}

/** Writes the parts one after the other and resolves with all that comes back until the connection ends. */
export async function exchange(url: string, ...parts: (string | Uint8Array)[]): Promise<string> {
  const socket = await openSocket(url);
  for (const part of parts) socket.write(part);
  const limit = setTimeout(() => socket.destroy(), 20_000);
  await new Promise((resolve) => socket.once('close', resolve));
  clearTimeout(limit);
  return socket.received();
}

/** The answers in a stream of them, each with a Content-Length, chunked, or without content. */
export function readAnswers(received: string): RawAnswer[] {
  const answers: RawAnswer[] = [];
  let rest = received;
  while (rest !== '') {
    const end = rest.indexOf('\r\n\r\n');
    if (end === -1) throw new Error(`not an answer: ${JSON.stringify(rest.slice(0, 200))}`);
    const [line, ...fields] = rest.slice(0, end).split('\r\n');
    const [, status, reason] = /^HTTP\/1\.1 (\d{3}) (.*)$/.exec(line!) ?? [];
    if (status === undefined) throw new Error(`not a status line: ${JSON.stringify(line)}`);
    const headers = Object.fromEntries(
      fields.map((field) => [
        field.slice(0, field.indexOf(':')).toLowerCase(),
        field.slice(field.indexOf(':') + 1).trim(),
      ]),
    );
    const after = rest.slice(end + 4);
    const length = Number(headers['content-length'] ?? 0);
    const content = headers['transfer-encoding'] === 'chunked' ? readChunks(after) : null;
    const text = content?.text ?? after.slice(0, length);
    rest = content?.rest ?? after.slice(length);
    if (status === '100') continue;
    const isJson = /\bjson\b/.test(headers['content-type'] ?? '') && !headers['content-encoding'];
    const body = isJson && text !== '' ? JSON.parse(text) : undefined;
    answers.push({ status: Number(status), reason: reason!, headers, text, body });
  }
  return answers;
}

function readChunks(from: string): { text: string; rest: string } {
  let rest = from;
  let text = '';
  for (;;) {
    const end = rest.indexOf('\r\n');
    const size = Number.parseInt(rest.slice(0, end), 16);
    if (Number.isNaN(size)) throw new Error(`not a chunk: ${JSON.stringify(rest.slice(0, 50))}`);
    text += rest.slice(end + 2, end + 2 + size);
    rest = rest.slice(end + 2 + size + 2);
    if (size === 0) return { text, rest };
  }
}

/** The one answer to what was written. */
export async function exchangeOne(url: string, ...parts: (string | Uint8Array)[]): Promise<RawAnswer> {
  const answers = readAnswers(await exchange(url, ...parts));
  if (answers.length !== 1) throw new Error(`${answers.length} answers: ${JSON.stringify(answers)}`);
  return answers[0]!;
}
