// W3C Trace Context (https://www.w3.org/TR/trace-context-2/): where a request stands in a trace that spans services.
import { randomBytes } from 'node:crypto';

export interface TraceContext {
  /** 32 hex digits, the same for the whole trace */
  traceId: string;
  /** 16 hex digits: the caller's span; null when the trace begins here */
  parentId: string | null;
  /** 16 hex digits: our own span */
  spanId: string;
  /** two hex digits: bit 0 sampled, bit 1 random trace id */
  flags: string;
}

const hex = (bytes: number): string => randomBytes(bytes).toString('hex');

// of a later version the first four fields are read, of version 00 there are no more
const form = /^(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;
const knownFlags = 0b11;

/**
 * Continues the trace of a `traceparent` header, or begins one when there is none or it is not valid (section 4.3).
 * A trace that begins here is marked as sampled: the request log has it.
 */
export function continueTrace(traceparent: string | undefined): TraceContext {
  const [, version, traceId, parentId, flags, more] = form.exec(traceparent ?? '') ?? [];
  if (version === undefined || (version === '00' && more !== undefined))
    return { traceId: hex(16), parentId: null, spanId: hex(8), flags: '01' };
  const kept = Number.parseInt(flags!, 16) & knownFlags;
  return {
    traceId: traceId!,
    parentId: parentId!,
    spanId: hex(8),
    flags: kept.toString(16).padStart(2, '0'),
  };
}

/** The `traceparent` of a call that is made on behalf of the request, and the `traceresponse` of its answer. */
export function formatTrace({ traceId, spanId, flags }: TraceContext): string {
  return `00-${traceId}-${spanId}-${flags}`;
}
