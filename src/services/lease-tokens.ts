// Tokens of leases: whoever claims work gets one, and it alone says who holds the work. Its hash is what is stored.
import { createHash, randomBytes } from 'node:crypto';

export const newLeaseToken = (): string => randomBytes(32).toString('base64url');

export const leaseHashOf = (leaseToken: string): Buffer => createHash('sha256').update(leaseToken).digest();
