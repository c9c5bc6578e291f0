-- Score jobs: the rewards of a whole file or snapshot, as an artifact.
--
-- The worker does them in slices, as it edits (0018): due_at says when the next begins, and a trigger keeps a job there; a
-- slice moves it ahead, which is its lease; what an older fence still writes changes nothing. What is done lies in parts,
-- artifacts whose limits follow from the input alone, so that a job which was killed ends with the same bytes.

-- request: as it was asked for. inputs: what its names stood for, {model: {id, alias, shared, digest, tokenizer_digest,
-- files}, source}, so that an alias which moves, or a model that is deleted, changes no job.
-- read_…: of the source, behind what the parts hold. troubles: slices in a row that began and saved no part.
create table finegrain.score_jobs (
  project_id uuid not null references finegrain.projects (id),
  id uuid not null,
  state text not null default 'queued' check (state in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
  request jsonb not null,
  inputs jsonb not null,
  source_bytes bigint not null,
  read_bytes bigint not null default 0,
  read_lines bigint not null default 0,
  total bigint, -- items; null until they are counted
  done bigint not null default 0,
  failed bigint not null default 0, -- among those that are done
  tokens bigint not null default 0,
  parts int not null default 0,
  fence int not null default 0,
  troubles int not null default 0,
  due_at timestamptz default clock_timestamp(),
  result jsonb,  -- {digest, bytes, media_type}
  failure jsonb, -- {reason, detail}
  created_at timestamptz not null default clock_timestamp(),
  started_at timestamptz,
  finished_at timestamptz,
  primary key (project_id, id),
  check ((state in ('queued', 'running')) = (due_at is not null)),
  check ((state in ('queued', 'running')) = (finished_at is null)),
  check ((state = 'succeeded') = (result is not null)),
  check ((state = 'failed') = (failure is not null))
);
create index score_jobs_unfinished on finegrain.score_jobs (project_id) where due_at is not null;
select finegrain.protect('finegrain.score_jobs');
grant select, insert on finegrain.score_jobs to finegrain_api;
grant update (state, due_at, finished_at) on finegrain.score_jobs to finegrain_api;

-- Gone when the job has ended: its result holds them all, or nobody wants them.
create table finegrain.score_job_parts (
  project_id uuid not null,
  score_job_id uuid not null,
  number int not null,
  digest text not null,
  primary key (project_id, score_job_id, number),
  foreign key (project_id, score_job_id) references finegrain.score_jobs (project_id, id)
);
select finegrain.protect('finegrain.score_job_parts');
grant select, delete on finegrain.score_job_parts to finegrain_api;

insert into finegrain.digest_columns (relation, attribute) values
  ('finegrain.score_jobs', 'inputs'),
  ('finegrain.score_jobs', 'result'),
  ('finegrain.score_job_parts', 'digest');

set local role finegrain_system;
create function finegrain.keep_score_job() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  key text := 'score-jobs/' || new.id;
begin
  if new.due_at is not null then
    perform graphile_worker.add_job('work-on-score-job', run_at := new.due_at, job_key := key,
      payload := json_build_object('project_id', new.project_id, 'score_job_id', new.id));
  else
    perform graphile_worker.remove_job(key);
  end if;
  return null;
end $$;

create function finegrain.on_score_job_ended() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  perform finegrain.add_webhook_event(new.project_id, 'score_job.' || new.state,
    jsonb_build_object('score_job_id', new.id, 'state', new.state));
  return null;
end $$;
revoke execute on function finegrain.keep_score_job, finegrain.on_score_job_ended from public;
grant execute on function finegrain.keep_score_job, finegrain.on_score_job_ended to finegrain_owner; -- who makes the triggers
set local role finegrain_owner;

create trigger keep_job after insert or update of due_at on finegrain.score_jobs
  for each row execute function finegrain.keep_score_job();
create trigger score_job_ended after update of state on finegrain.score_jobs
  for each row when (old.state <> new.state and new.state in ('succeeded', 'failed'))
  execute function finegrain.on_score_job_ended();
