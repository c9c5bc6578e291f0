// What a running API uses, measured from outside: memory and descriptors from /proc, the heap after a forced collection
// over the debugger's protocol, which the product need not know of, and its sessions in Postgres.
import { readdirSync, readFileSync } from 'node:fs';
import pg from 'pg';
import { WebSocket } from 'undici';

const megabyte = 2 ** 20;

/** Resident memory in MB. */
export function residentMegabytes(pid: number): number {
  const pages = Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]);
  return (pages * 4096) / megabyte;
}

export function openDescriptors(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

export function childrenOf(pid: number): number[] {
  const threads = readdirSync(`/proc/${pid}/task`);
  return threads
    .flatMap((thread) => readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').split(' '))
    .filter((child) => child !== '')
    .map(Number);
}

export interface Heap {
  /** MB in use right after a full collection, buffers outside of the heap included */
  megabytesAfterCollection(): Promise<number>;
  close(): void;
}

/** @param url of the debugger, which `node --inspect` prints */
export async function openHeap(url: string): Promise<Heap> {
  const socket = new WebSocket(url);
  const waiting = new Map<number, { resolve: (result: never) => void; reject: (error: Error) => void }>();
  let sent = 0;
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve);
    socket.addEventListener('error', reject);
  });
  socket.addEventListener('message', ({ data }) => {
    const { id, result, error } = JSON.parse(String(data));
    const call = waiting.get(id);
    waiting.delete(id);
    if (error) call?.reject(new Error(error.message));
    else call?.resolve(result as never);
  });
  socket.addEventListener('close', () => {
    for (const { reject } of waiting.values()) reject(new Error('the process has ended'));
  });
  const call = <T>(method: string, params: object = {}): Promise<T> =>
    new Promise((resolve, reject) => {
      sent += 1;
      waiting.set(sent, { resolve, reject });
      socket.send(JSON.stringify({ id: sent, method, params }));
    });
  return {
    async megabytesAfterCollection() {
      await call('HeapProfiler.collectGarbage');
      const expression = '(({ heapUsed, external }) => heapUsed + external)(process.memoryUsage())';
      const { result } = await call<{ result: { value: number } }>('Runtime.evaluate', { expression });
      return result.value / megabyte;
    },
    close: () => socket.close(),
  };
}

export interface Sessions {
  /** of the API's role */
  count: number;
  /** seconds that the longest of them has been idle within a transaction */
  idleInTransaction: number;
}

/** @param url of the superuser, past any pooler */
export async function openSessionsGauge(
  url: string,
): Promise<{ read(): Promise<Sessions>; close(): Promise<void> }> {
  const client = new pg.Client({ connectionString: url, application_name: 'soak' });
  await client.connect();
  return {
    async read() {
      const { rows } = await client.query<Sessions>(
        `select count(*)::int as count,
           coalesce(max(extract(epoch from clock_timestamp() - state_change)) filter (where state like 'idle in transaction%'), 0)::float as "idleInTransaction"
         from pg_stat_activity where usename = 'finegrain_api' and pid <> pg_backend_pid()`,
      );
      return rows[0]!;
    },
    close: () => client.end(),
  };
}
