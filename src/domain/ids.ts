// Public ids: a prefix that names the kind, and the 32 hex digits of a UUIDv7 (RFC 9562), so that ids sort by age.
// Inside, in the database, an id is the bare UUID.

export const idPrefixes = {
  project: 'proj',
  key: 'key',
  dataset: 'ds',
  pair: 'pair',
  edit: 'edit',
  editDecision: 'edec',
  vote: 'vote',
  editRequest: 'ereq',
  editTask: 'etask',
  snapshot: 'snap',
  model: 'model',
  run: 'run',
  runner: 'runner',
  webhook: 'wh',
  webhookDelivery: 'whd',
  auditEvent: 'audit',
  artifactUpload: 'aup',
  scoreJob: 'sjob',
  evaluation: 'eval',
  judgement: 'judg',
} as const;

export type IdKind = keyof typeof idPrefixes;

/** `pair`, `0192…-…` → `pair_0192…` */
export function formatId(kind: IdKind, uuid: string): string {
  return `${idPrefixes[kind]}_${uuid.replaceAll('-', '')}`;
}

/** The UUID inside a public id, or null when it is no id of this kind. */
export function parseId(kind: IdKind, id: string): string | null {
  const hex = id.startsWith(`${idPrefixes[kind]}_`) ? id.slice(idPrefixes[kind].length + 1) : '';
  const groups = /^([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})$/.exec(hex);
  return groups ? groups.slice(1).join('-') : null;
}
