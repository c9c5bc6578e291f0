// A way to Postgres that can be cut at a commit: the last moment at which it has not happened, or the first at which it
// has and the client does not know.
import { connect, createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

export interface HeldCommits {
  /** the database's address, by way of here */
  url: string;
  /** From now on the next commit, or the answer to it, is kept back. Resolves when that has happened, to what cuts the line. */
  hold(what: 'commit' | 'answer'): Promise<() => void>;
  close(): Promise<void>;
}

export async function holdCommits(t: Test, databaseUrl: string): Promise<HeldCommits> {
  const way = await openHeldWay(databaseUrl);
  t.teardown(way.close);
  return way;
}

/** Whoever calls this must close it. */
export async function openHeldWay(databaseUrl: string): Promise<HeldCommits> {
  const { hostname, port } = new URL(databaseUrl);
  const sockets = new Set<Socket>();
  let holding: { what: 'commit' | 'answer'; held: (cut: () => void) => void } | null = null;

  const server = createServer((client) => {
    const database = connect(Number(port), hostname);
    let committing = false;
    let stopped = false;
    const cut = (): void => {
      client.destroy();
      database.destroy();
    };
    for (const socket of [client, database]) {
      sockets.add(socket);
      socket.on('error', () => {}); // the process at the other end is killed
      socket.on('close', () => {
        sockets.delete(socket);
        cut();
      });
    }
    client.on('data', (chunk) => {
      if (holding && chunk.includes('commit\0')) {
        committing = true;
        if (holding.what === 'commit') stopped = true;
        if (stopped) return holding.held(cut);
      }
      if (!stopped) database.write(chunk);
    });
    database.on('data', (chunk) => {
      if (committing && holding && chunk.includes('COMMIT\0')) {
        stopped = true;
        return holding.held(cut);
      }
      if (!stopped) client.write(chunk);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('listens on a port');
  const url = new URL(databaseUrl);
  url.hostname = '127.0.0.1';
  url.port = String(address.port);
  return {
    url: url.href,
    hold: (what) =>
      new Promise((resolve) => {
        holding = {
          what,
          held: (cut) => {
            holding = null;
            resolve(cut);
          },
        };
      }),
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
