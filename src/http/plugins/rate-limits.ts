// Two limits, asked before the database is: requests by key, and failed authentications by address. They count in the
// memory of this process over fixed minutes, so n processes let through n times as much, and a restart begins at zero.
// Answers carry RateLimit-Policy and RateLimit as draft-ietf-httpapi-ratelimit-headers-10 has them.
import { createHash } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import ipaddr from 'ipaddr.js';
import { RateLimiterMemory, RateLimiterRes } from 'rate-limiter-flexible';
import { Problem } from '../../errors.ts';

export interface RateLimitOptions {
  /** by one key; 0: no limit */
  requestsPerMinute: number;
  /** from one address; 0: no limit */
  authFailuresPerMinute: number;
}

export interface RateLimits {
  /** Counts a request before its key is looked up. @throws Problem rate_limited */
  admit(request: FastifyRequest, reply: FastifyReply, key: string): Promise<void>;
  /** Counts a key that proved wrong. */
  failed(request: FastifyRequest, key: string): Promise<void>;
  /**
   * Remembers a key that proved right. Only such keys pass from an address of too many failures: a neighbour behind the
   * same proxy does not lock a client out, and yet guesses from there reach the database no more.
   */
  worked(key: string): void;
}

const windowSeconds = 60;
const maxRemembered = 10_000;

/** The addresses that count as one: an IPv4 address, however it is written; the /64 of an IPv6 address (RFC 6177). */
export function addressGroup(address: string): string {
  if (!ipaddr.isValid(address)) return address; // what a trusted proxy has put in its header
  const parsed = ipaddr.process(address);
  if (parsed instanceof ipaddr.IPv4) return parsed.toString();
  return `${new ipaddr.IPv6([...parsed.parts.slice(0, 4), 0, 0, 0, 0])}/64`;
}

// what is kept of a key is its hash: a copy of the memory shows none
const hashOf = (key: string): string => createHash('sha256').update(key).digest('base64url');

export function openRateLimits({ requestsPerMinute, authFailuresPerMinute }: RateLimitOptions): RateLimits {
  const requests = new RateLimiterMemory({ points: requestsPerMinute, duration: windowSeconds });
  const failures = new RateLimiterMemory({ points: authFailuresPerMinute, duration: windowSeconds });
  const remembered = new Set<string>(); // in the order of their last use

  return {
    async admit(request, reply, key) {
      const hash = hashOf(key);
      if (authFailuresPerMinute > 0 && !remembered.has(hash)) {
        const failed = await failures.get(addressGroup(request.ip));
        if (failed && failed.consumedPoints >= authFailuresPerMinute)
          throw refusal('Too many requests with a wrong key came from this address.', failed);
      }
      if (requestsPerMinute > 0) {
        const used = await requests.consume(hash).catch((over: RateLimiterRes) => over);
        if (!(used instanceof RateLimiterRes)) throw used;
        reply.headers({
          'ratelimit-policy': `"key";q=${requestsPerMinute};w=${windowSeconds}`,
          ratelimit: `"key";r=${used.remainingPoints};t=${seconds(used)}`,
        });
        if (used.consumedPoints > requestsPerMinute)
          throw refusal(`A key may send ${requestsPerMinute} requests a minute.`, used);
      }
    },
    async failed(request, key) {
      remembered.delete(hashOf(key));
      if (authFailuresPerMinute > 0) await failures.penalty(addressGroup(request.ip));
    },
    worked(key) {
      const hash = hashOf(key);
      remembered.delete(hash);
      remembered.add(hash);
      if (remembered.size > maxRemembered) remembered.delete(remembered.values().next().value!);
    },
  };
}

const seconds = ({ msBeforeNext }: RateLimiterRes): number => Math.ceil(msBeforeNext / 1000);

function refusal(why: string, state: RateLimiterRes): Problem {
  return new Problem('rate_limited', `${why} Try again in ${seconds(state)} s.`, {
    retryAfterSeconds: seconds(state),
  });
}
