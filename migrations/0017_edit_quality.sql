-- What a dataset asks of its edits, votes behind a preference, and decisions of reviewers.

-- {max_changed_fraction, max_hunks, max_length_change, on_excess: warn | refuse, review: none | required}; a key that is
-- missing has the default of src/services/edit-policy.ts.
alter table finegrain.datasets add column edit_policy jsonb not null default '{}';

-- Votes of all voters, those that came with the pair (whose voters nobody named) among them. The preference follows from
-- them each time that one is given.
alter table finegrain.pairs
  add column votes_a int not null default 0 check (votes_a >= 0),
  add column votes_b int not null default 0 check (votes_b >= 0),
  add column votes_tie int not null default 0 check (votes_tie >= 0);

create table finegrain.pair_votes (
  project_id uuid not null,
  id uuid not null,
  pair_id uuid not null,
  voter text not null,
  vote text not null check (vote in ('a', 'b', 'tie')),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (project_id, id),
  unique (project_id, pair_id, voter),
  foreign key (project_id, pair_id) references finegrain.pairs (project_id, id) on delete cascade
);
select finegrain.protect('finegrain.pair_votes');
grant select, insert, update, delete on finegrain.pair_votes to finegrain_api;

-- pending: waits for a reviewer, as the dataset asks for reviews. superseded: another edit stands in its place.
-- decided_at: of the last decision; null while nobody has decided.
alter table finegrain.edits drop constraint edits_status_check;
alter table finegrain.edits add constraint edits_status_check
  check (status in ('pending', 'accepted', 'unchanged', 'stale', 'rejected', 'superseded'));
alter table finegrain.edits add column decided_at timestamptz, add column superseded_by uuid;
alter table finegrain.edits add foreign key (project_id, superseded_by)
  references finegrain.edits (project_id, id) on delete set null (superseded_by);
create index edits_to_review on finegrain.edits (project_id, id) where status = 'pending';
create index edits_superseded_by on finegrain.edits (project_id, superseded_by) where superseded_by is not null;

create table finegrain.edit_decisions (
  project_id uuid not null,
  id uuid not null,
  edit_id uuid not null,
  decision text not null check (decision in ('accept', 'reject', 'supersede')),
  reviewer text not null,
  reason text,
  superseded_by uuid,
  created_at timestamptz not null default clock_timestamp(),
  primary key (project_id, id),
  foreign key (project_id, edit_id) references finegrain.edits (project_id, id) on delete cascade,
  check ((decision = 'supersede') or superseded_by is null)
);
create index edit_decisions_of_edit on finegrain.edit_decisions (project_id, edit_id, id);
select finegrain.protect('finegrain.edit_decisions');
grant select, insert on finegrain.edit_decisions to finegrain_api;

-- How a snapshot chose: {edits, rewrites, undecided, min_vote_share}.
alter table finegrain.snapshots add column rules jsonb not null
  default '{"edits": "all", "rewrites": "comparison", "undecided": "keep", "min_vote_share": 0}';
alter table finegrain.snapshots alter column rules drop default;
