// What can be wrong with an artifact store itself, as opposed to what is asked of it.

/** The store cannot be reached or has no room: the same may work later. */
export class StoreUnavailable extends Error {
  override name = 'StoreUnavailable';
}

/** The upload was assembled and discarded, or has expired. */
export class UploadGone extends Error {
  override name = 'UploadGone';
  constructor() {
    super('The upload is gone: it was completed, aborted, or has expired.');
  }
}

export const isStoreUnavailable = (error: unknown): error is StoreUnavailable =>
  error instanceof StoreUnavailable;
