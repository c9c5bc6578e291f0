// The one way out: every request to a URL that a project gave goes through here. What a host resolves to is checked
// inside the look-up whose result the socket connects to, so nothing can change between check and use (DNS rebinding).
// Redirects are not followed, nothing is decompressed, no cookie is kept and no proxy is taken from the environment.
// Connections are kept per origin (undici's Agent), so one that was allowed for a host serves no other.
import type { LookupAddress } from 'node:dns';
import { lookup } from 'node:dns/promises';
import type { LookupFunction } from 'node:net';
import type { Agent, buildConnector } from 'undici';
import { type AddressPolicy, checkUrl, notPublic, readAddressPolicy } from './address-policy.ts';
import { OutgoingError } from './errors.ts';

const connectTimeoutMs = 5000;
const userAgent = 'finegrain';
const maxDiscardedBytes = 16 * 1024;

export interface OutgoingRequest {
  method: 'GET' | 'POST';
  /** lower-case names; `traceparent` among them is passed on like any other */
  headers?: Record<string, string>;
  body?: string;
  /** from the look-up of the host to the last byte of the answer */
  timeoutMs: number;
  /** a longer answer is too_large; 0: the status says all, and the body is thrown away */
  maxAnswerBytes: number;
  /** breaks the request off: its reason is thrown */
  signal?: AbortSignal;
}

export interface OutgoingAnswer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: Buffer;
}

export interface OutgoingClient {
  /** @throws OutgoingError refused_address for what is clear without DNS */
  check(url: string): void;
  /** Any status is an answer, 3xx too. @throws OutgoingError */
  request(url: string, request: OutgoingRequest): Promise<OutgoingAnswer>;
  close(): Promise<void>;
}

/** All addresses of a host name. */
export type Resolve = (hostname: string) => Promise<LookupAddress[]>;

/**
 * @param options.allow what FINEGRAIN_OUTGOING_ALLOW lists
 * @param options.resolve the system's resolver unless a test brings its own
 */
export function openOutgoingClient(options: { allow: readonly string[]; resolve?: Resolve }): OutgoingClient {
  const policy = readAddressPolicy(options.allow);
  const resolve: Resolve = options.resolve ?? ((hostname) => lookup(hostname, { all: true }));
  let agent: Promise<Agent> | null = null;
  const openAgent = async (): Promise<Agent> => {
    const undici = await import('undici'); // of a megabyte, which many a start never needs
    return new undici.Agent({
      connect: guardedConnector(undici.buildConnector, policy, resolve),
      headersTimeout: 0, // the signal of each request bounds it as a whole
      bodyTimeout: 0,
    });
  };
  return {
    check: (url) => void checkUrl(policy, url),
    async request(text, { method, headers = {}, body, timeoutMs, maxAnswerBytes, signal: given }) {
      const url = checkUrl(policy, text);
      if ('host' in headers) throw new Error('The host of a request is that of its URL.');
      const timeout = AbortSignal.timeout(timeoutMs);
      const signal = given ? AbortSignal.any([timeout, given]) : timeout;
      try {
        agent ??= openAgent();
        const answer = await (await agent).request({
          origin: url.origin,
          path: url.pathname + url.search,
          method,
          headers: { 'user-agent': userAgent, 'accept-encoding': 'identity', ...headers },
          body: body ?? null,
          signal,
        });
        const content =
          maxAnswerBytes === 0
            ? await discard(answer.body, signal)
            : await readUpTo(answer.body, maxAnswerBytes);
        return { status: answer.statusCode, headers: answer.headers, body: content };
      } catch (error) {
        if (given?.aborted) throw given.reason;
        throw requestError(error as NodeJS.ErrnoException, signal, url.host);
      }
    },
    close: async () => (await agent)?.destroy(),
  };
}

/** For host names. A literal address makes no look-up: checkUrl has seen it, in the very form that is connected to. */
function guardedConnector(
  build: typeof buildConnector,
  policy: AddressPolicy,
  resolve: Resolve,
): buildConnector.connector {
  const guardedLookup: LookupFunction = (hostname, _options, callback) => {
    allowedAddresses(policy, resolve, hostname).then(
      (addresses) => callback(null, addresses),
      (error) => callback(error, []),
    );
  };
  const connect = build({
    timeout: connectTimeoutMs,
    lookup: guardedLookup,
    autoSelectFamily: true, // asks the look-up for all addresses
  });
  return (options, callback) => {
    connect(options, (...[error, socket]: Parameters<buildConnector.Callback>) => {
      if (error) callback(connectError(error, options), null);
      else callback(null, socket!);
    });
  };
}

/** Those that may be connected to. @throws OutgoingError dns_failed; refused_address when there is none */
async function allowedAddresses(
  policy: AddressPolicy,
  resolve: Resolve,
  hostname: string,
): Promise<LookupAddress[]> {
  const addresses = await resolve(hostname).catch((cause: Error) => {
    throw new OutgoingError('dns_failed', `${hostname} cannot be resolved: ${cause.message}`, { cause });
  });
  if (addresses.length === 0) throw new OutgoingError('dns_failed', `${hostname} has no address.`);
  if (policy.allowsHost(hostname)) return addresses;
  const allowed = addresses.filter(({ address }) => policy.allowsAddress(address));
  if (allowed.length === 0)
    throw notPublic(`${hostname}, which is ${addresses.map(({ address }) => address).join(', ')},`);
  return allowed;
}

const connectionErrors = /^(ECONN\w+|EHOST\w+|ENET\w+|EADDR\w+|EPIPE|EACCES|EPERM)$/;

function connectError(
  error: NodeJS.ErrnoException,
  { host, hostname, protocol }: buildConnector.Options,
): OutgoingError {
  if (error instanceof OutgoingError) return error;
  const where = host ?? hostname;
  const code = error.code ?? '';
  if (code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT')
    return new OutgoingError('timed_out', `No connection to ${where} within ${connectTimeoutMs} ms.`);
  const type = protocol === 'https:' && !connectionErrors.test(code) ? 'tls_failed' : 'connect_failed';
  return new OutgoingError(type, `No connection to ${where}: ${error.message || code}`, { cause: error });
}

function requestError(error: NodeJS.ErrnoException, signal: AbortSignal, host: string): Error {
  if (error instanceof OutgoingError) return error;
  if (signal.aborted) return new OutgoingError('timed_out', `No complete answer of ${host} in time.`);
  if (error.code === 'UND_ERR_INVALID_ARG') return error; // the caller's mistake
  return new OutgoingError('broken_answer', `The answer of ${host} broke off: ${error.message}`, {
    cause: error,
  });
}

async function readUpTo(body: AsyncIterable<Buffer>, maxBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of body) {
    bytes += chunk.length;
    // leaving the loop destroys the body, and its connection with it
    if (bytes > maxBytes)
      throw new OutgoingError('too_large', `The answer is longer than the ${maxBytes} bytes that are read.`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** A short body is read, so that its connection can be used again; a long or broken one is cut off. */
async function discard(
  body: { dump(options: { limit: number; signal: AbortSignal }): Promise<void> },
  signal: AbortSignal,
): Promise<Buffer> {
  await body.dump({ limit: maxDiscardedBytes, signal }).catch(() => {}); // the status has arrived, and it alone counts
  return Buffer.alloc(0);
}
