// A reader of server-sent events that knows no more than the format. Each has a connection of its own, and no more.
import { once } from 'node:events';
import { type IncomingHttpHeaders, type IncomingMessage, request } from 'node:http';

export interface SentEvent {
  id: string | null;
  event: string;
  // biome-ignore lint/suspicious/noExplicitAny: tests read what the document promises
  data: any;
}

export interface EventStream {
  status: number;
  headers: IncomingHttpHeaders;
  /** what has come so far */
  events: SentEvent[];
  comments: string[];
  /** milliseconds to wait before connecting again, as the stream said */
  retry: number | null;
  /** Resolves with the first event or comment that fits, of those that have come or will. @throws Error when the stream ends before */
  until(wanted: (stream: EventStream) => boolean): Promise<void>;
  /** Resolves when the stream is over: true when it was ended in order, false when it broke. */
  ended: Promise<boolean>;
  /** Reads nothing more for a while. */
  pause(): void;
  resume(): void;
  close(): void;
}

export async function openEventStream(
  url: string,
  key: string,
  headers: Record<string, string> = {},
): Promise<EventStream> {
  const sent = request(url, {
    agent: false,
    headers: { authorization: `Bearer ${key}`, accept: 'text/event-stream', ...headers },
  }).end();
  const [response]: [IncomingMessage] = (await once(sent, 'response')) as never;
  const waiting = new Set<() => void>();
  let over = false;
  const stream: EventStream = {
    status: response.statusCode!,
    headers: response.headers,
    events: [],
    comments: [],
    retry: null,
    until: (wanted) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          if (wanted(stream)) resolve();
          else if (over) reject(new Error(`The stream ended after ${JSON.stringify(stream.events.at(-1))}.`));
          else return void waiting.add(look);
          waiting.delete(look);
        };
        look();
      }),
    ended: Promise.resolve(true),
    pause: () => void response.socket.pause(),
    resume: () => void response.socket.resume(),
    close: () => void response.destroy(),
  };
  const read = async (): Promise<boolean> => {
    let text = '';
    try {
      for await (const chunk of response.setEncoding('utf8')) {
        text += chunk;
        const blocks = text.split('\n\n');
        text = blocks.pop()!;
        for (const block of blocks) take(stream, block);
        for (const look of [...waiting]) look();
      }
      return text === '';
    } catch {
      return false; // the connection broke
    } finally {
      over = true;
      for (const look of [...waiting]) look();
    }
  };
  stream.ended = read();
  return stream;
}

function take(stream: EventStream, block: string): void {
  const sent: SentEvent = { id: null, event: 'message', data: undefined };
  for (const line of block.split('\n')) {
    const [field, value] = [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim()];
    if (field === '') stream.comments.push(value);
    else if (field === 'retry') stream.retry = Number(value);
    else if (field === 'id') sent.id = value;
    else if (field === 'event') sent.event = value;
    else if (field === 'data') sent.data = JSON.parse(value);
    else throw new Error(`A stream has no line ${JSON.stringify(line)}.`);
  }
  if (sent.data !== undefined) stream.events.push(sent);
}
