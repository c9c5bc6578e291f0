// Connections that are kept alive and do nothing but ask for /healthz now and then, as a proxy's idle ones do.
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const askEveryMs = 25_000; // the service closes what is idle for 72 s

export interface IdleConnections {
  /** how many are open and were answered */
  open(): number;
  /** how often one was lost and made anew */
  lost(): number;
  close(): void;
}

export async function holdIdleConnections(url: string, count: number): Promise<IdleConnections> {
  const { hostname, port } = new URL(url);
  const request = `GET /healthz HTTP/1.1\r\nhost: ${hostname}:${port}\r\n\r\n`;
  const answered = new Set<Socket>();
  const sockets = new Set<Socket>();
  let lost = 0;
  let closing = false;
  const open = (): void => {
    const socket = connect(Number(port), hostname);
    sockets.add(socket);
    socket.on('connect', () => socket.write(request));
    socket.on('data', () => answered.add(socket));
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => {
      sockets.delete(socket);
      answered.delete(socket);
      if (closing) return;
      lost += 1;
      setTimeout(() => closing || open(), 1000);
    });
  };
  for (let i = 0; i < count; i++) {
    open();
    if (i % 50 === 49) await sleep(20);
  }
  const asking = setInterval(() => {
    for (const socket of answered) socket.write(request);
  }, askEveryMs);
  return {
    open: () => answered.size,
    lost: () => lost,
    close() {
      closing = true;
      clearInterval(asking);
      for (const socket of sockets) socket.destroy();
    },
  };
}
