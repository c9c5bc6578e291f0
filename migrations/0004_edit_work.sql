-- Editing as work: requests for edits, their tasks under leases, and who would not edit what.
--
-- A task is one edit that is wanted of one pair. It is held through a lease: whoever claims it gets a random token, kept
-- here as its hash, and every later call names that token. Lease times are the database's clock_timestamp(). A lease
-- that is over needs no reaper: its task counts as open, and the next claim takes it.

create table finegrain.edit_requests (
  project_id uuid not null,
  id uuid not null,
  dataset_id uuid not null,
  filter jsonb not null,
  editor text not null check (editor in ('person', 'program', 'llm')),
  redundancy int not null check (redundancy between 1 and 9),
  instructions text,
  pairs int not null,     -- that became tasks
  skipped jsonb not null, -- {reason: pairs of the filter that did not}
  created_at timestamptz not null default now(),
  cancelled_at timestamptz,
  primary key (project_id, id),
  foreign key (project_id, dataset_id) references finegrain.datasets (project_id, id)
);
select finegrain.protect('finegrain.edit_requests');
grant select, insert on finegrain.edit_requests to finegrain_api;
grant update (cancelled_at) on finegrain.edit_requests to finegrain_api;

-- The order of the ids is the order of the work: every pair once, then every pair a second time, and so on.
-- side: the less-preferred response when the task was made or last claimed.
create table finegrain.edit_tasks (
  project_id uuid not null,
  id uuid not null,
  edit_request_id uuid not null,
  pair_id uuid not null,
  slot int not null, -- 1..redundancy
  side text not null check (side in ('a', 'b')),
  state text not null default 'open' check (state in ('open', 'leased', 'submitted', 'cancelled')),
  editor_kind text check (editor_kind in ('person', 'llm', 'program')),
  editor_name text,
  lease_sha256 bytea check (length(lease_sha256) = 32), -- kept after a submit, which may be sent again
  lease_seconds int,
  lease_expires_at timestamptz,
  primary key (project_id, id),
  foreign key (project_id, edit_request_id) references finegrain.edit_requests (project_id, id),
  foreign key (project_id, pair_id) references finegrain.pairs (project_id, id) on delete cascade,
  check ((state in ('leased', 'submitted')) = (num_nulls(editor_kind, editor_name, lease_sha256, lease_seconds, lease_expires_at) = 0)),
  check ((state in ('open', 'cancelled')) = (num_nonnulls(editor_kind, editor_name, lease_sha256, lease_seconds, lease_expires_at) = 0))
);
create index edit_tasks_to_claim on finegrain.edit_tasks (project_id, edit_request_id, id) where state in ('open', 'leased');
create index edit_tasks_of_request on finegrain.edit_tasks (project_id, edit_request_id, id);
create index edit_tasks_of_pair on finegrain.edit_tasks (project_id, pair_id, editor_name);
select finegrain.protect('finegrain.edit_tasks');
grant select, insert, update on finegrain.edit_tasks to finegrain_api;

-- Editors who would not edit a pair: they do not get it again.
create table finegrain.edit_skips (
  project_id uuid not null,
  pair_id uuid not null,
  editor_name text not null,
  editor_kind text not null check (editor_kind in ('person', 'llm', 'program')),
  edit_request_id uuid not null,
  reason text,
  created_at timestamptz not null default now(),
  primary key (project_id, pair_id, editor_name),
  foreign key (project_id, pair_id) references finegrain.pairs (project_id, id) on delete cascade,
  foreign key (project_id, edit_request_id) references finegrain.edit_requests (project_id, id)
);
create index edit_skips_of_request on finegrain.edit_skips (project_id, edit_request_id);
select finegrain.protect('finegrain.edit_skips');
grant select, insert on finegrain.edit_skips to finegrain_api;

-- The task that an edit came from; one task brings at most one edit.
alter table finegrain.edits add column edit_task_id uuid;
alter table finegrain.edits add foreign key (project_id, edit_task_id)
  references finegrain.edit_tasks (project_id, id) on delete set null (edit_task_id);
create unique index edits_of_task on finegrain.edits (project_id, edit_task_id) where edit_task_id is not null;

-- Ids for the rows that one statement makes: UUIDv7 (RFC 9562) with the time of `first`, then `number` (up to 2^30) in
-- the place of the first random bits, so that they sort by it; 44 random bits follow. uuidv7() needs Postgres 18.
create function finegrain.numbered_uuid(first uuid, number bigint) returns uuid
language sql volatile parallel safe
return (left(replace(first::text, '-', ''), 12)
  || '7' || lpad(to_hex(number >> 18), 3, '0')
  || to_hex(32768 | ((number >> 4) & 16383))
  || to_hex(number & 15) || right(gen_random_uuid()::text, 11))::uuid;
