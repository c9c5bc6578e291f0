// What a connection may ask of the service, in size and time. Handlers and schemas bound the rest.

export const connectionLimits = {
  /** bytes of the request line and all headers */
  headBytes: 16 * 1024,
  headers: 200,
  /** characters of the request target */
  targetLength: 8 * 1024,
  /** until the head of a request is complete, from the connection or the end of the answer before */
  headMs: 20_000,
  /** without a byte of the body */
  bodyGapMs: 30_000,
  /** a body that is read as a whole must come at this pace, after `bodyGapMs` for a start */
  bodyBytesPerSecond: 1024,
  /** without a byte in either direction: an idle connection, or an answer that nobody reads */
  silenceMs: 120_000,
  /** for the rest of a body after its answer, so that the client gets to read it */
  lingerMs: 5_000,
};

export type ConnectionLimits = typeof connectionLimits;
