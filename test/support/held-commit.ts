// A way to Postgres that can be cut at a commit: the last moment at which it has not happened, or the first at which it
// has and the client does not know.
import { connect, createServer, type Socket } from 'node:net';
import type { Test } from 'tap';

export interface HeldCommits {
  /** the database's address, by way of here */
  url: string;
  /** From now on the next commit, or the answer to it, is kept back. Resolves when that has happened. */
  hold(what: 'commit' | 'answer'): Promise<void>;
}

export async function holdCommits(t: Test, databaseUrl: string): Promise<HeldCommits> {
  const { hostname, port } = new URL(databaseUrl);
  const sockets = new Set<Socket>();
  let holding: { what: 'commit' | 'answer'; held: () => void } | null = null;

  const server = createServer((client) => {
    const database = connect(Number(port), hostname);
    let committing = false;
    let stopped = false;
    for (const socket of [client, database]) {
      sockets.add(socket);
      socket.on('error', () => {}); // the process at the other end is killed
      socket.on('close', () => {
        client.destroy();
        database.destroy();
      });
    }
    client.on('data', (chunk) => {
      if (holding && chunk.includes('commit\0')) {
        committing = true;
        if (holding.what === 'commit') stopped = true;
        if (stopped) return holding.held();
      }
      if (!stopped) database.write(chunk);
    });
    database.on('data', (chunk) => {
      if (committing && holding && chunk.includes('COMMIT\0')) {
        stopped = true;
        return holding.held();
      }
      if (!stopped) client.write(chunk);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  });

  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('listens on a port');
  const url = new URL(databaseUrl);
  url.hostname = '127.0.0.1';
  url.port = String(address.port);
  return {
    url: url.href,
    hold: (what) =>
      new Promise<void>((resolve) => {
        holding = {
          what,
          held: () => {
            holding = null;
            resolve();
          },
        };
      }),
  };
}
