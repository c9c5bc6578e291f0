// Why a request to the outside brought no usable answer. `code` is stable: it is stored and shown to projects. The message
// may name addresses inside the operator's network, so it is for the log.

export const outgoingErrors = {
  refused_address: 'The URL, or every address that its host resolves to, is not one that may be connected to',
  dns_failed: 'The host name could not be resolved',
  connect_failed: 'No connection could be made',
  tls_failed: 'The TLS handshake failed, or the certificate is not valid for the host',
  timed_out: 'No answer came in time',
  too_large: 'The answer is larger than is read',
  broken_answer: 'The connection ended before its answer did, or the answer is not HTTP',
} as const;

export type OutgoingErrorCode = keyof typeof outgoingErrors;

export class OutgoingError extends Error {
  readonly code: OutgoingErrorCode;

  constructor(code: OutgoingErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'OutgoingError';
    this.code = code;
  }
}
