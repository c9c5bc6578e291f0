// Whom this service may connect to when a project names the host: the public internet, and what the operator allows.
// Anything else would lend strangers this machine's place in its network (server-side request forgery, OWASP SSRF).
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { OutgoingError } from './errors.ts';

type Address = ipaddr.IPv4 | ipaddr.IPv6;

export interface AddressPolicy {
  /** The operator named this host: whatever it resolves to may be connected to. */
  allowsHost(hostname: string): boolean;
  /** @param address as a resolver or a canonical URL spells it */
  allowsAddress(address: string): boolean;
}

const globalUnicast6 = ipaddr.IPv6.parseCIDR('2000::/3');
const nat64 = ipaddr.IPv6.parseCIDR('64:ff9b::/96');
const azureHost = '168.63.129.16'; // looks public, and is the host that every Azure machine runs on

/** The IPv4 address that packets to an IPv4-mapped or NAT64 (RFC 6052) address arrive at; others stay as they are. */
function destination(address: Address): Address {
  if (address instanceof ipaddr.IPv4) return address;
  if (address.isIPv4MappedAddress()) return address.toIPv4Address();
  return address.match(nat64) ? new ipaddr.IPv4(address.toByteArray().slice(12)) : address;
}

// 6to4, Teredo, documentation, benchmarking and their like have ranges of their own: only plain unicast passes
function isPublic(address: Address): boolean {
  if (address.range() !== 'unicast') return false;
  return address instanceof ipaddr.IPv4 ? address.toString() !== azureHost : address.match(globalUnicast6);
}

/**
 * @param allowed what FINEGRAIN_OUTGOING_ALLOW lists: addresses, CIDR ranges, host names
 * @throws Error that names an entry which is none of these
 */
export function readAddressPolicy(allowed: readonly string[]): AddressPolicy {
  const ranges: [Address, number][] = [];
  const hosts = new Set<string>();
  for (const entry of allowed) {
    const [base, bits] = entry.split('/');
    if (isIP(base!)) ranges.push(readRange(entry, bits === undefined));
    else hosts.add(readHost(entry));
  }
  const inRanges = (address: Address): boolean =>
    ranges.some(([base, bits]) => base.kind() === address.kind() && address.match([base, bits]));
  return {
    allowsHost: (hostname) => hosts.has(hostname),
    allowsAddress(text) {
      const written = ipaddr.parse(text);
      const address = destination(written);
      return isPublic(address) || inRanges(address) || inRanges(written);
    },
  };
}

function readRange(entry: string, single: boolean): [Address, number] {
  if (single) return ipaddr.parseCIDR(`${entry}/${isIP(entry) === 4 ? 32 : 128}`);
  if (!ipaddr.isValidCIDR(entry)) throw notAllowable(entry);
  return ipaddr.parseCIDR(entry);
}

function readHost(entry: string): string {
  const { hostname } = URL.canParse(`http://${entry}`) ? new URL(`http://${entry}`) : { hostname: '' };
  // a port, a path, a pattern, 10.0.0 for 10.0.0.0/24: an entry that would allow something else than it seems to
  const plain = /^[^/:@?#\\*]+$/.test(entry) && hostname !== '' && !isIP(hostname) && !hostname.endsWith('.');
  if (!plain) throw notAllowable(entry);
  return hostname;
}

const notAllowable = (entry: string) =>
  new Error(
    `FINEGRAIN_OUTGOING_ALLOW lists ${JSON.stringify(entry)}, which is neither an address, nor a range such as 10.0.0.0/8, nor a host name.`,
  );

// of the ports that the Fetch standard blocks ("bad ports"), those above 1023: other protocols listen there, and some
// take an HTTP request for commands
const otherProtocols = new Set([
  1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697,
  10080,
]);

/**
 * All that can be said about a URL without asking DNS. The URL that comes back is the one to connect to: its host is
 * canonical, so that 0x7f.1, 2130706433, 0177.0.0.1 and full-width digits are all 127.0.0.1 here.
 * @throws OutgoingError refused_address
 */
export function checkUrl(policy: AddressPolicy, text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null) throw refused('The URL cannot be parsed: give it as https://host/path.');
  if (url.protocol !== 'https:' && url.protocol !== 'http:')
    throw refused(`The URL must begin with https:// or http://, not ${url.protocol}`);
  if (url.username !== '' || url.password !== '')
    throw refused('The URL must not contain a user name or password.');
  const port = Number(url.port || (url.protocol === 'https:' ? 443 : 80));
  if ((port < 1024 && port !== 80 && port !== 443) || otherProtocols.has(port))
    throw refused(`Port ${port} belongs to another protocol: use 80, 443 or one from 1024 on.`);
  const host = hostOf(url);
  if (host.endsWith('.')) throw refused('Write the host without the dot at its end.');
  if (policy.allowsHost(host)) return url;
  if (isIP(host) ? !policy.allowsAddress(host) : /^(.+\.)?localhost$/.test(host)) throw notPublic(host);
  return url;
}

/** The host as sockets and resolvers take it: an IPv6 address without its brackets. */
const hostOf = ({ hostname }: URL): string => hostname.replace(/^\[(.*)\]$/, '$1');

const refused = (message: string) => new OutgoingError('refused_address', message);

export const notPublic = (what: string) =>
  refused(
    `${what} is not a public address. The operator of this service can allow it with FINEGRAIN_OUTGOING_ALLOW.`,
  );
