-- Datasets, preference pairs, minimal edits, snapshots and the artifacts that hold their content.

create table finegrain.datasets (
  project_id uuid not null references finegrain.projects (id),
  id uuid not null,
  name text not null,
  description text,
  created_at timestamptz not null default now(),
  archived_at timestamptz,
  primary key (project_id, id)
);
select finegrain.protect('finegrain.datasets');
grant select, insert, update on finegrain.datasets to finegrain_api;

-- prompt: a JSON string or a list of {role, content}.
-- identity_sha256: prompt and both responses; content_sha256: those, preference and metadata as first submitted.
create table finegrain.pairs (
  project_id uuid not null,
  id uuid not null,
  dataset_id uuid not null,
  external_id text,
  prompt jsonb not null,
  response_a text not null,
  response_b text not null,
  preference text check (preference in ('a', 'b')),
  metadata jsonb not null default '{}',
  identity_sha256 bytea not null,
  content_sha256 bytea not null,
  created_at timestamptz not null default now(),
  primary key (project_id, id),
  foreign key (project_id, dataset_id) references finegrain.datasets (project_id, id)
);
create unique index pairs_external_id on finegrain.pairs (project_id, dataset_id, external_id) where external_id is not null;
create unique index pairs_identity on finegrain.pairs (project_id, dataset_id, identity_sha256) where external_id is null;
create index pairs_of_dataset on finegrain.pairs (project_id, dataset_id, id);
select finegrain.protect('finegrain.pairs');
grant select, insert, update, delete on finegrain.pairs to finegrain_api;

-- status: accepted (in snapshots), unchanged (equal to its original, kept out), stale (the preference moved to the
-- other side afterwards), rejected (by a reviewer).
create table finegrain.edits (
  project_id uuid not null,
  id uuid not null,
  pair_id uuid not null,
  side text not null check (side in ('a', 'b')),
  edited_response text not null,
  editor_kind text not null check (editor_kind in ('person', 'llm', 'program')),
  editor_name text not null,
  comment text,
  status text not null check (status in ('accepted', 'unchanged', 'stale', 'rejected')),
  alignment jsonb not null,
  alignment_version int not null,
  created_at timestamptz not null default now(),
  primary key (project_id, id),
  foreign key (project_id, pair_id) references finegrain.pairs (project_id, id) on delete cascade
);
create index edits_of_pair on finegrain.edits (project_id, pair_id, id);
select finegrain.protect('finegrain.edits');
grant select, insert, update, delete on finegrain.edits to finegrain_api;

-- The content lies in the artifact store under its digest; a row here makes it visible to a project.
create table finegrain.artifacts (
  project_id uuid not null references finegrain.projects (id),
  digest text not null check (digest ~ '^sha256:[0-9a-f]{64}$'),
  bytes bigint not null,
  media_type text not null,
  created_at timestamptz not null default now(),
  primary key (project_id, digest)
);
select finegrain.protect('finegrain.artifacts');
grant select, insert on finegrain.artifacts to finegrain_api;

create table finegrain.snapshots (
  project_id uuid not null,
  id uuid not null,
  digest text not null,
  dataset_ids uuid[] not null,
  split jsonb not null,
  counts jsonb not null,
  created_at timestamptz not null default now(),
  primary key (project_id, id),
  foreign key (project_id, digest) references finegrain.artifacts (project_id, digest)
);
select finegrain.protect('finegrain.snapshots');
grant select, insert on finegrain.snapshots to finegrain_api;
