// Stands between a client and the S3 server and decides what becomes of each request: passed on, failed, or left hanging.

import { once } from 'node:events';
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Test } from 'tap';

/** 503 is tried again by the SDK, 403 is not. */
export type Verdict = 'pass' | 'hang' | 403 | 503 | { breakAfter: number };

export interface S3Proxy {
  endpoint: string;
  /** `UploadPart`, `PutObject`, `GetObject` and so on, as they came */
  seen: string[];
  /** pass everything, unless a test says otherwise */
  judge: (operation: string) => Verdict;
  /** Refuses connections for a while. */
  beAway(ms: number): Promise<void>;
}

export async function startS3Proxy(t: Test, endpoint: string): Promise<S3Proxy> {
  const target = new URL(endpoint);
  const server = createServer((incoming, answer) => {
    const operation = operationOf(incoming);
    proxy.seen.push(operation);
    const verdict = proxy.judge(operation);
    if (verdict === 'hang') return;
    if (verdict === 403 || verdict === 503) {
      incoming.resume();
      answer.writeHead(verdict).end();
      return;
    }
    forward(incoming, answer, target, verdict === 'pass' ? Number.POSITIVE_INFINITY : verdict.breakAfter);
  });
  const listen = async (port: number): Promise<void> => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  };
  await listen(0);
  const { port } = server.address() as AddressInfo;
  const close = async (): Promise<void> => {
    const closed = once(server, 'close');
    server.close();
    server.closeAllConnections();
    await closed;
  };
  t.teardown(close);
  const proxy: S3Proxy = {
    endpoint: `http://127.0.0.1:${port}`,
    seen: [],
    judge: () => 'pass',
    async beAway(ms) {
      await close();
      await new Promise((resolve) => setTimeout(resolve, ms));
      await listen(port);
    },
  };
  return proxy;
}

/** The name that S3 has for a request. */
function operationOf({ method, url, headers }: IncomingMessage): string {
  const { searchParams: query, pathname } = new URL(url!, 'http://s3');
  if (query.has('partNumber')) return headers['x-amz-copy-source'] ? 'UploadPartCopy' : 'UploadPart';
  if (query.has('uploads')) return method === 'POST' ? 'CreateMultipartUpload' : 'ListMultipartUploads';
  if (query.has('uploadId')) {
    return (
      { POST: 'CompleteMultipartUpload', GET: 'ListParts', DELETE: 'AbortMultipartUpload' }[method!] ?? '?'
    );
  }
  if (query.has('delete')) return 'DeleteObjects';
  if (method === 'PUT') return headers['x-amz-copy-source'] ? 'CopyObject' : 'PutObject';
  if (pathname.split('/').filter(Boolean).length === 1) return 'ListObjects';
  return { GET: 'GetObject', HEAD: 'HeadObject', DELETE: 'DeleteObject' }[method!] ?? '?';
}

function forward(incoming: IncomingMessage, answer: ServerResponse, target: URL, breakAfter: number): void {
  const { method, url, headers } = incoming;
  const { hostname, port } = target;
  const outgoing = request({ hostname, port, method, path: url, headers, agent: false }, (found) => {
    answer.writeHead(found.statusCode!, found.headers);
    let bytes = 0;
    found.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      answer.write(chunk);
      if (bytes >= breakAfter) answer.destroy();
    });
    found.on('end', () => answer.end());
  });
  outgoing.on('error', () => answer.destroy());
  incoming.on('error', () => outgoing.destroy());
  incoming.pipe(outgoing);
}
