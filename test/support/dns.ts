// A DNS server (RFC 1035) of one's own: answers A and AAAA questions over UDP on the loopback address.
import { createSocket } from 'node:dgram';
import { Resolver } from 'node:dns/promises';
import { once } from 'node:events';
import { isIPv4 } from 'node:net';
import ipaddr from 'ipaddr.js';
import type { Test } from 'tap';
import type { Resolve } from '../../src/outgoing/client.ts';

export interface DnsServer {
  /** Asks this server, as the system's resolver would ask its own. */
  resolve: Resolve;
  /** What a name resolves to from the next question on; a name without addresses does not exist. */
  set(name: string, addresses: string[]): void;
  /** Names that were asked for, each once per look-up. */
  asked: string[];
}

export async function startDns(t: Test): Promise<DnsServer> {
  const socket = createSocket('udp4');
  const names = new Map<string, string[]>();
  socket.on('message', (question, peer) => {
    const { name, type, end } = readQuestion(question);
    const addresses = names.get(name) ?? [];
    const records = addresses.filter((address) => type === (isIPv4(address) ? 1 : 28)).map(record);
    const header = Buffer.alloc(12);
    question.copy(header, 0, 0, 2); // its id
    header.writeUInt16BE(addresses.length > 0 ? 0x8180 : 0x8183, 2); // an answer; 3: no such name
    header.writeUInt16BE(1, 4);
    header.writeUInt16BE(records.length, 6);
    socket.send(Buffer.concat([header, question.subarray(12, end), ...records]), peer.port, peer.address);
  });
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  t.teardown(() => socket.close());
  const resolver = new Resolver({ timeout: 1000, tries: 1 });
  resolver.setServers([`127.0.0.1:${socket.address().port}`]);
  const asked: string[] = [];
  return {
    asked,
    set: (name, addresses) => void names.set(name, addresses),
    async resolve(name) {
      asked.push(name);
      const none = (error: NodeJS.ErrnoException) => (error.code === 'ENODATA' ? [] : Promise.reject(error));
      const v4 = await resolver.resolve4(name).catch(none);
      const v6 = await resolver.resolve6(name).catch(none);
      return [
        ...v4.map((address) => ({ address, family: 4 })),
        ...v6.map((address) => ({ address, family: 6 })),
      ];
    },
  };
}

function readQuestion(message: Buffer): { name: string; type: number; end: number } {
  const labels: string[] = [];
  let at = 12;
  for (let length = message[at]!; length > 0; length = message[at]!) {
    labels.push(message.toString('latin1', at + 1, at + 1 + length));
    at += 1 + length;
  }
  return { name: labels.join('.').toLowerCase(), type: message.readUInt16BE(at + 1), end: at + 5 };
}

/** A record of the question's name that may not be cached. */
function record(address: string): Buffer {
  const data = Buffer.from(ipaddr.parse(address).toByteArray());
  const head = Buffer.from([0xc0, 12, 0, isIPv4(address) ? 1 : 28, 0, 1, 0, 0, 0, 0, 0, data.length]);
  return Buffer.concat([head, data]);
}
