-- Evaluations: candidates against a baseline on the same prompts, under a judge.
--
-- While the worker has something to do, due_at says when, as for score jobs (0019): to make the items once all responses are
-- there, and to judge by a reward model. People, programs and the llm judge work on the judgements themselves; whoever
-- records the last one ends the evaluation.

-- request: as it was asked for, with defaults. inputs: what its names stood for when it was made (services/evaluations.ts).
create table finegrain.evaluations (
  project_id uuid not null references finegrain.projects (id),
  id uuid not null,
  name text,
  state text not null default 'preparing' check (state in ('preparing', 'judging', 'succeeded', 'failed', 'cancelled')),
  judge text not null check (judge in ('reward', 'llm', 'person', 'external')),
  request jsonb not null,
  inputs jsonb not null,
  items int, -- null until they are made
  fence int not null default 0,
  troubles int not null default 0,
  due_at timestamptz,
  failure jsonb, -- {reason, detail}
  created_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  primary key (project_id, id),
  check ((state in ('preparing', 'judging')) = (finished_at is null)),
  check (due_at is null or finished_at is null),
  check ((state = 'failed') = (failure is not null)),
  check (state not in ('judging', 'succeeded') or items is not null)
);
select finegrain.protect('finegrain.evaluations');
grant select, insert on finegrain.evaluations to finegrain_api;
grant update (state, items, troubles, due_at, finished_at) on finegrain.evaluations to finegrain_api;

-- Runs whose responses it waits for. responder: 0 the baseline, then the candidates in their order. own: made for it.
create table finegrain.evaluation_runs (
  project_id uuid not null,
  evaluation_id uuid not null,
  responder int not null,
  run_id uuid not null,
  own boolean not null,
  primary key (project_id, evaluation_id, responder),
  foreign key (project_id, evaluation_id) references finegrain.evaluations (project_id, id),
  foreign key (project_id, run_id) references finegrain.runs (project_id, id)
);
create index evaluation_runs_of_run on finegrain.evaluation_runs (project_id, run_id);
select finegrain.protect('finegrain.evaluation_runs');
grant select, insert on finegrain.evaluation_runs to finegrain_api;

-- responses: of the baseline, then of the candidates; null where there is none.
create table finegrain.evaluation_items (
  project_id uuid not null,
  evaluation_id uuid not null,
  number int not null, -- from 1
  item_id text not null,
  prompt jsonb not null,
  responses text[] not null,
  primary key (project_id, evaluation_id, number),
  unique (project_id, evaluation_id, item_id),
  foreign key (project_id, evaluation_id) references finegrain.evaluations (project_id, id)
);
select finegrain.protect('finegrain.evaluation_items');
grant select, insert on finegrain.evaluation_items to finegrain_api;

-- One for each that is wanted from the start, open; more where others judge too. The order of the ids is the order of the work.
-- candidate: from 1. candidate_first: null when the judge saw no order. outcome: the candidate's share, or null_reason says
-- why there is none. detail: what the judge gave beside it. A lease is held as that of an edit task (0004).
create table finegrain.judgements (
  project_id uuid not null,
  id uuid not null,
  evaluation_id uuid not null,
  number int not null,
  candidate int not null check (candidate > 0),
  state text not null default 'open' check (state in ('open', 'leased', 'judged', 'cancelled')),
  judge_kind text not null check (judge_kind in ('reward', 'llm', 'person', 'external')),
  judge_name text,
  candidate_first boolean,
  outcome double precision check (outcome between 0 and 1),
  null_reason text,
  detail jsonb,
  lease_sha256 bytea check (length(lease_sha256) = 32), -- kept with the judgement, which may be sent again
  lease_seconds int,
  lease_expires_at timestamptz,
  judged_at timestamptz,
  primary key (project_id, id),
  foreign key (project_id, evaluation_id, number) references finegrain.evaluation_items (project_id, evaluation_id, number),
  check ((state = 'judged') = (num_nonnulls(outcome, null_reason) = 1)),
  check ((state = 'judged') = (judged_at is not null)),
  check (state = 'judged' or num_nonnulls(outcome, null_reason) = 0),
  check (state not in ('leased', 'judged') or judge_name is not null)
);
-- a judge judges a pair of responses once in an order
create unique index judgements_once on finegrain.judgements
  (project_id, evaluation_id, number, candidate, judge_kind, judge_name, (coalesce(candidate_first::int, 2)))
  where judge_name is not null;
create index judgements_to_do on finegrain.judgements (project_id, evaluation_id, id) where state in ('open', 'leased');
create index judgements_of_evaluation on finegrain.judgements (project_id, evaluation_id, id);
create index judgements_of_item on finegrain.judgements (project_id, evaluation_id, number, candidate);
select finegrain.protect('finegrain.judgements');
grant select, insert, update on finegrain.judgements to finegrain_api;

insert into finegrain.digest_columns (relation, attribute) values ('finegrain.evaluations', 'inputs');

set local role finegrain_system;
create function finegrain.keep_evaluation_job() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  key text := 'evaluations/' || new.id;
begin
  if new.due_at is not null then
    perform graphile_worker.add_job('work-on-evaluation', run_at := new.due_at, job_key := key,
      payload := json_build_object('project_id', new.project_id, 'evaluation_id', new.id));
  else
    perform graphile_worker.remove_job(key);
  end if;
  return null;
end $$;

create function finegrain.wake_evaluations() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  update finegrain.evaluations e set due_at = clock_timestamp()
  from finegrain.evaluation_runs r
  where r.project_id = new.project_id and r.run_id = new.id
    and e.project_id = r.project_id and e.id = r.evaluation_id and e.state = 'preparing';
  return null;
end $$;

create function finegrain.on_evaluation_ended() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  perform finegrain.add_webhook_event(new.project_id, 'evaluation.' || new.state,
    jsonb_build_object('evaluation_id', new.id, 'state', new.state));
  return null;
end $$;
revoke execute on function finegrain.keep_evaluation_job, finegrain.wake_evaluations, finegrain.on_evaluation_ended from public;
grant execute on function finegrain.keep_evaluation_job, finegrain.wake_evaluations, finegrain.on_evaluation_ended
  to finegrain_owner; -- who makes the triggers
set local role finegrain_owner;

create trigger keep_job after insert or update of due_at on finegrain.evaluations
  for each row execute function finegrain.keep_evaluation_job();
create trigger wake_evaluations after update of state on finegrain.runs
  for each row when (old.state <> new.state and new.state in ('succeeded', 'failed', 'cancelled'))
  execute function finegrain.wake_evaluations();
create trigger evaluation_ended after update of state on finegrain.evaluations
  for each row when (old.state <> new.state and new.state in ('succeeded', 'failed'))
  execute function finegrain.on_evaluation_ended();
