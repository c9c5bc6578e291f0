// Tables of edit tasks, small and large, made by SQL.
import type pg from 'pg';

export type Scale = 'small' | 'large';

const tasks: Record<Scale, number> = { small: 1000, large: 200_000 };
/** The last tasks, of the last requests, are those that the editor is given. */
const given = 300;

export interface Scenario {
  /** over which the tasks are spread */
  requests: Record<Scale, number>;
  /** what the tasks before the last ones are to the editor */
  before: 'submitted by others' | 'open' | 'for persons' | 'skipped' | 'second edits of own pairs';
}

/** `flat`: a claim should not feel the size of the tables. `grows`: it looks at each thing that the editor may not have. */
export const scenarios: (Scenario & { name: string; expected: 'flat' | 'grows' })[] = [
  {
    name: 'one request, all but 300 tasks submitted',
    requests: { small: 1, large: 1 },
    before: 'submitted by others',
    expected: 'flat',
  },
  {
    name: '10 and 10,000 requests, all but the last ones finished',
    requests: { small: 10, large: 10_000 },
    before: 'submitted by others',
    expected: 'flat',
  },
  {
    name: '10 and 10,000 requests with work',
    requests: { small: 10, large: 10_000 },
    before: 'open',
    expected: 'flat',
  },
  {
    name: '10 and 10,000 requests, first those for persons *',
    requests: { small: 10, large: 10_000 },
    before: 'for persons',
    expected: 'grows',
  },
  {
    name: '10 and 10,000 requests, all but the last ones skipped by the editor *',
    requests: { small: 10, large: 10_000 },
    before: 'skipped',
    expected: 'grows',
  },
  {
    name: 'one request, first the second edits of pairs that the editor has edited *',
    requests: { small: 1, large: 1 },
    before: 'second edits of own pairs',
    expected: 'grows',
  },
];

export const project = '00000000-0000-7000-8000-000000000000';
/** An id that sorts by a number. */
const id = (number: string): string =>
  `('00000000-0000-7000-8000-' || lpad(to_hex(${number}), 12, '0'))::uuid`;

/** Fills an empty database; the editor is called bench. */
export async function fill(
  client: pg.Client,
  scale: Scale,
  { requests: spread, before }: Scenario,
): Promise<void> {
  const count = tasks[scale];
  const requests = spread[scale];
  const isGiven = `n >= ${count - given}`;
  const submitted = before === 'submitted by others' || before === 'second edits of own pairs';
  // of two edits of a pair, the first is done and the second still wanted
  const open =
    before === 'second edits of own pairs' ? `n >= ${(count - given) / 2}` : submitted ? isGiven : 'true';
  const pair =
    before === 'second edits of own pairs'
      ? `(case when ${isGiven} then n else n % ${(count - given) / 2} end)`
      : 'n';
  const kind =
    before === 'for persons'
      ? `case when (r + 1) * ${count / requests} > ${count - given} then 'program' else 'person' end`
      : `'program'`;
  const name = before === 'second edits of own pairs' ? 'bench' : 'other';
  await client.query(`
    set session_replication_role = replica; -- what is made here needs no check
    insert into finegrain.datasets (project_id, id, name) values ('${project}', ${id('0')}, 'bench');
    insert into finegrain.pairs (project_id, id, dataset_id, prompt, response_a, response_b, preference, identity_sha256, content_sha256)
    select '${project}', ${id('n')}, ${id('0')}, to_jsonb('prompt ' || n), 'Dear Anna, the harbor is open.',
      'Dear Anna, the damn garden is open.', 'a', sha256(n::text::bytea), sha256(n::text::bytea)
    from generate_series(0, ${count - 1}) n;
    insert into finegrain.edit_requests (project_id, id, dataset_id, filter, editor, redundancy, pairs, skipped)
    select '${project}', ${id('r')}, ${id('0')}, '{}', ${kind}, 1, ${count / requests}, '{}' from generate_series(0, ${requests - 1}) r;
    insert into finegrain.edit_tasks (project_id, id, edit_request_id, pair_id, slot, side, state, editor_kind, editor_name, lease_sha256, lease_seconds, lease_expires_at)
    select '${project}', ${id('n')}, ${id(`n / ${count / requests}`)}, ${id(pair)}, 1, 'b', task.state,
      case when done then 'program' end, case when done then '${name}' end, case when done then sha256('') end, case when done then 600 end,
      case when done then now() end
    from generate_series(0, ${count - 1}) n,
      lateral (select not (${open}) as done, case when ${open} then 'open' else 'submitted' end as state) task;
    insert into finegrain.edits (project_id, id, pair_id, side, edited_response, editor_kind, editor_name, status, alignment, alignment_version, edit_task_id)
    select project_id, id, pair_id, 'b', 'Dear Anna, the harbor is open.', 'program', editor_name, 'accepted', '{}', 1, id
    from finegrain.edit_tasks where state = 'submitted'`);
  if (before === 'skipped')
    await client.query(
      `insert into finegrain.edit_skips (project_id, pair_id, editor_name, editor_kind, edit_request_id)
       select project_id, pair_id, 'bench', 'program', edit_request_id from finegrain.edit_tasks where id < ${id(`${count - given}`)}`,
    );
  await client.query('set session_replication_role = origin');
  await client.query('vacuum analyze');
}
