// Secrets at rest: AES-256-GCM under a key that the operator holds (FINEGRAIN_SECRET_KEY), never the database. A sealed value
// opens only at the place that it was sealed for, so that rows cannot be swapped, and it names its key, so that keys can be
// rotated: what was sealed with a previous key still opens, and is sealed with the current one when it is next written.
import { createCipheriv, createDecipheriv, createHmac, randomBytes } from 'node:crypto';
import { Problem } from '../errors.ts';

interface SecretKey {
  /** says which key it is and nothing about it */
  id: string;
  key: Buffer;
}

export interface SecretKeys {
  current: SecretKey;
  previous: SecretKey[];
}

export interface Sealed {
  keyId: string;
  /** nonce (12 bytes), ciphertext, tag (16 bytes) */
  bytes: Buffer;
}

/** Where a sealed value belongs: the project and a name that is one secret's only. */
export interface Place {
  projectId: string;
  name: string;
}

const cipher = 'aes-256-gcm';
const nonceBytes = 12;
const tagBytes = 16;

const identify = (key: Buffer): SecretKey => ({
  id: createHmac('sha256', key).update('finegrain key id').digest('hex').slice(0, 16),
  key,
});

/** @param current 32 bytes each; `previous` are for opening only */
export function secretKeys(current: Buffer, previous: Buffer[]): SecretKeys {
  return { current: identify(current), previous: previous.map(identify) };
}

const boundTo = ({ projectId, name }: Place): Buffer => Buffer.from(`${projectId}/${name}`);

/** @throws Problem unprocessable without keys */
export function seal(keys: SecretKeys | null, place: Place, text: string): Sealed {
  if (keys === null) {
    throw new Problem(
      'unprocessable',
      'This service has no key to encrypt secrets with. Its operator sets FINEGRAIN_SECRET_KEY, for the API and the worker, to 32 random bytes in base64: openssl rand -base64 32.',
    );
  }
  const { id, key } = keys.current;
  const nonce = randomBytes(nonceBytes);
  const encryption = createCipheriv(cipher, key, nonce, { authTagLength: tagBytes }).setAAD(boundTo(place));
  const bytes = Buffer.concat([
    nonce,
    encryption.update(text, 'utf8'),
    encryption.final(),
    encryption.getAuthTag(),
  ]);
  return { keyId: id, bytes };
}

/** The key is missing, or the row was altered or moved: for the operator. */
export class UnreadableSecret extends Error {
  override readonly name = 'UnreadableSecret';
}

/** @throws UnreadableSecret */
export function unseal(keys: SecretKeys | null, place: Place, { keyId, bytes }: Sealed): string {
  const known = keys === null ? [] : [keys.current, ...keys.previous];
  const found = known.find(({ id }) => id === keyId);
  if (!found) {
    throw new UnreadableSecret(
      `The secret ${place.name} was encrypted with the key ${keyId}. Give that key in FINEGRAIN_SECRET_KEY, or in FINEGRAIN_SECRET_KEY_PREVIOUS if there is a newer one.`,
    );
  }
  try {
    const decryption = createDecipheriv(cipher, found.key, bytes.subarray(0, nonceBytes), {
      authTagLength: tagBytes,
    })
      .setAAD(boundTo(place))
      .setAuthTag(bytes.subarray(-tagBytes));
    return (
      decryption.update(bytes.subarray(nonceBytes, -tagBytes), undefined, 'utf8') + decryption.final('utf8')
    );
  } catch (cause) {
    throw new UnreadableSecret(
      `The secret ${place.name} does not open: its row was altered, or moved here.`,
      { cause },
    );
  }
}
