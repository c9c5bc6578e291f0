-- Models and their aliases; runs, their attempts, events and checkpoints; the fenced functions of the runner.
--
-- A run's truth is the row in runs. A runner holds it through an attempt: `fence` counts attempts, and every write of
-- a runner names the fence it was given. Under an old fence nothing changes and the function answers false or null,
-- which tells that runner to stop. Lease times are the database's clock_timestamp(), never a client's.

create table finegrain.models (
  project_id uuid not null references finegrain.projects (id),
  id uuid not null,
  name text not null,
  role text not null check (role in ('policy', 'token_reward', 'sequence_reward')),
  digest text not null,
  tokenizer_digest text not null,
  files jsonb not null, -- [{path, digest, bytes}]
  metrics jsonb not null default '{}',
  run_id uuid,
  created_at timestamptz not null default now(),
  primary key (project_id, id)
);
create unique index models_of_run on finegrain.models (project_id, run_id) where run_id is not null;
select finegrain.protect('finegrain.models');
grant select, insert, delete on finegrain.models to finegrain_api;

create table finegrain.aliases (
  project_id uuid not null,
  name text not null,
  model_id uuid not null,
  updated_at timestamptz not null default now(),
  primary key (project_id, name),
  foreign key (project_id, model_id) references finegrain.models (project_id, id)
);
select finegrain.protect('finegrain.aliases');
grant select, insert, update, delete on finegrain.aliases to finegrain_api;

-- inputs: what the ids in spec stood for when the run was made (digests, files), so that a runner reads nothing else
-- and a moved alias changes no queued run.
create table finegrain.runs (
  project_id uuid not null references finegrain.projects (id),
  id uuid not null,
  kind text not null check (kind in ('sft', 'reward', 'ppo', 'generate')),
  spec jsonb not null,
  inputs jsonb not null,
  state text not null default 'queued'
    check (state in ('queued', 'starting', 'running', 'pausing', 'paused', 'succeeded', 'failed', 'cancelled')),
  desired_state text not null default 'running' check (desired_state in ('running', 'paused', 'cancelled')),
  hardware text not null default 'cpu' check (hardware in ('cpu', 'cuda')),
  labels text[] not null default '{}',
  max_attempts int not null check (max_attempts between 1 and 100),
  fence bigint not null default 0,
  last_event bigint not null default 0,
  progress jsonb,
  result jsonb,
  failure jsonb,
  alarms jsonb not null default '[]',
  artifacts jsonb not null default '[]', -- [{name, digest, bytes, media_type}]
  created_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz,
  primary key (project_id, id)
);
create index runs_queue on finegrain.runs (hardware, id) where state = 'queued';
select finegrain.protect('finegrain.runs');
grant select, insert on finegrain.runs to finegrain_api;
grant update (state, desired_state, failure, finished_at, last_event) on finegrain.runs to finegrain_api;

create table finegrain.run_attempts (
  project_id uuid not null,
  run_id uuid not null,
  fence bigint not null,
  runner text not null,
  started_at timestamptz not null default clock_timestamp(),
  heartbeat_at timestamptz not null default clock_timestamp(),
  lease_expires_at timestamptz not null,
  ended_at timestamptz,
  outcome text check (outcome in ('succeeded', 'failed', 'cancelled', 'interrupted', 'lost')),
  primary key (project_id, run_id, fence),
  foreign key (project_id, run_id) references finegrain.runs (project_id, id)
);
create index run_attempts_live on finegrain.run_attempts (lease_expires_at) where ended_at is null;
select finegrain.protect('finegrain.run_attempts');
grant select on finegrain.run_attempts to finegrain_api;

create table finegrain.run_events (
  project_id uuid not null,
  run_id uuid not null,
  sequence bigint not null,
  fence bigint not null,
  type text not null,
  payload jsonb not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (project_id, run_id, sequence),
  foreign key (project_id, run_id) references finegrain.runs (project_id, id)
);
select finegrain.protect('finegrain.run_events');
grant select, insert on finegrain.run_events to finegrain_api;

create table finegrain.run_checkpoints (
  project_id uuid not null,
  run_id uuid not null,
  step bigint not null,
  fence bigint not null,
  files jsonb not null, -- [{path, digest, bytes}], paths relative to the work folder
  created_at timestamptz not null default clock_timestamp(),
  primary key (project_id, run_id, step),
  foreign key (project_id, run_id) references finegrain.runs (project_id, id)
);
select finegrain.protect('finegrain.run_checkpoints');
grant select on finegrain.run_checkpoints to finegrain_api;

set local role finegrain_system;

-- Events get their numbers inside the update of their run: no gaps, and commit order is number order.
create function finegrain.append_run_events(project uuid, run uuid, as_fence bigint, new_events jsonb) returns void
language plpgsql set search_path = finegrain, pg_temp as $$
declare
  first bigint;
begin
  update finegrain.runs set last_event = last_event + jsonb_array_length(new_events)
  where project_id = project and id = run
  returning last_event - jsonb_array_length(new_events) into first;
  insert into finegrain.run_events (project_id, run_id, sequence, fence, type, payload)
  select project, run, first + e.position, as_fence, e.event ->> 'type', e.event - 'type'
  from jsonb_array_elements(new_events) with ordinality as e (event, position);
end $$;

-- Attempts whose lease is over are lost; their runs are queued again, or fail after max_attempts lost ones.
create function finegrain.reap_lost_attempts() returns int
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  attempt record;
  reaped int := 0;
begin
  for attempt in
    select r.project_id, r.id, r.fence, r.max_attempts, r.desired_state, a.runner,
      (select count(*) from finegrain.run_attempts l
       where l.project_id = r.project_id and l.run_id = r.id and l.outcome = 'lost') as lost_before
    from finegrain.run_attempts a
    join finegrain.runs r on r.project_id = a.project_id and r.id = a.run_id and r.fence = a.fence
    where a.ended_at is null and a.lease_expires_at < clock_timestamp()
      and r.state in ('starting', 'running', 'pausing')
    for update of r skip locked
  loop
    -- the lock may have waited behind a heartbeat: look again
    update finegrain.run_attempts set ended_at = clock_timestamp(), outcome = 'lost'
    where project_id = attempt.project_id and run_id = attempt.id and fence = attempt.fence
      and ended_at is null and lease_expires_at < clock_timestamp();
    continue when not found;
    reaped := reaped + 1;
    perform finegrain.append_run_events(attempt.project_id, attempt.id, attempt.fence,
      jsonb_build_array(jsonb_build_object('type', 'attempt_lost', 'runner', attempt.runner)));
    if attempt.desired_state = 'cancelled' then
      update finegrain.runs set state = 'cancelled', finished_at = clock_timestamp()
      where project_id = attempt.project_id and id = attempt.id;
    elsif attempt.lost_before + 1 < attempt.max_attempts then
      update finegrain.runs set state = 'queued' where project_id = attempt.project_id and id = attempt.id;
      perform pg_notify('finegrain_runs', '');
    else
      update finegrain.runs set state = 'failed', finished_at = clock_timestamp(),
        failure = jsonb_build_object('reason', 'lost', 'log_tail', '[]'::jsonb, 'detail',
          format('The runner %s stopped renewing its lease: it was killed, or cut off from the database. That happened to %s attempt(s), and max_attempts is %s.',
            attempt.runner, attempt.lost_before + 1, attempt.max_attempts))
      where project_id = attempt.project_id and id = attempt.id;
    end if;
  end loop;
  return reaped;
end $$;

create function finegrain.runner_claim(runner text, hardware text[], labels text[], lease_seconds double precision)
returns table (project_id uuid, run_id uuid, kind text, spec jsonb, inputs jsonb, fence bigint, checkpoint jsonb)
language plpgsql security definer set search_path = finegrain, pg_temp as $$
#variable_conflict use_column
declare
  claimed finegrain.runs;
begin
  perform finegrain.reap_lost_attempts();
  update finegrain.runs r set state = 'starting', fence = r.fence + 1,
    started_at = coalesce(r.started_at, clock_timestamp()), progress = null
  where (r.project_id, r.id) = (
    select q.project_id, q.id from finegrain.runs q
    where q.state = 'queued' and q.hardware = any (runner_claim.hardware) and q.labels <@ runner_claim.labels
    order by q.id limit 1 for update skip locked)
  returning r.* into claimed;
  if claimed.id is null then return; end if;
  insert into finegrain.run_attempts (project_id, run_id, fence, runner, lease_expires_at)
  values (claimed.project_id, claimed.id, claimed.fence, runner_claim.runner,
    clock_timestamp() + make_interval(secs => lease_seconds));
  perform finegrain.append_run_events(claimed.project_id, claimed.id, claimed.fence,
    jsonb_build_array(jsonb_build_object('type', 'attempt_started', 'attempt', claimed.fence, 'runner', runner_claim.runner)));
  return query select claimed.project_id, claimed.id, claimed.kind, claimed.spec, claimed.inputs, claimed.fence,
    (select jsonb_build_object('step', c.step, 'files', c.files) from finegrain.run_checkpoints c
     where c.project_id = claimed.project_id and c.run_id = claimed.id order by c.step desc limit 1);
end $$;

-- True while `fence` still holds the run; locks the run's row for the rest of the transaction.
create function finegrain.holds_run(project uuid, run uuid, as_fence bigint) returns boolean
language sql set search_path = finegrain, pg_temp as $$
  select exists (
    select from finegrain.runs r where r.project_id = project and r.id = run and r.fence = as_fence
      and r.state in ('starting', 'running', 'pausing') for update)
  and exists (
    select from finegrain.run_attempts a where a.project_id = project and a.run_id = run and a.fence = as_fence
      and a.ended_at is null)
$$;

-- Renews the lease and answers the desired state; null tells the runner that the run is no longer its own.
create function finegrain.runner_heartbeat(project uuid, run uuid, as_fence bigint, lease_seconds double precision) returns text
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  if not finegrain.holds_run(project, run, as_fence) then return null; end if;
  update finegrain.run_attempts set heartbeat_at = clock_timestamp(),
    lease_expires_at = clock_timestamp() + make_interval(secs => lease_seconds)
  where project_id = project and run_id = run and fence = as_fence;
  return (select desired_state from finegrain.runs where project_id = project and id = run);
end $$;

-- Appends events; the newest progress and the first alarm of each code are kept on the run as well.
create function finegrain.runner_report(project uuid, run uuid, as_fence bigint, new_events jsonb) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  if not finegrain.holds_run(project, run, as_fence) then return false; end if;
  perform finegrain.append_run_events(project, run, as_fence, new_events);
  update finegrain.runs set
    state = case when state = 'starting' then 'running' else state end,
    progress = coalesce((
      select e.event - 'type' from jsonb_array_elements(new_events) with ordinality as e (event, position)
      where e.event ->> 'type' = 'progress' order by e.position desc limit 1), progress),
    alarms = alarms || coalesce((
      select jsonb_agg(e.event - 'type' order by e.position) from jsonb_array_elements(new_events) with ordinality as e (event, position)
      where e.event ->> 'type' = 'alarm'
        and not alarms @> jsonb_build_array(jsonb_build_object('code', e.event -> 'code'))), '[]')
  where project_id = project and id = run;
  return true;
end $$;

create function finegrain.runner_save_checkpoint(project uuid, run uuid, as_fence bigint, at_step bigint, checkpoint_files jsonb) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  if not finegrain.holds_run(project, run, as_fence) then return false; end if;
  insert into finegrain.run_checkpoints (project_id, run_id, step, fence, files)
  values (project, run, at_step, as_fence, checkpoint_files)
  on conflict (project_id, run_id, step) do update set fence = excluded.fence, files = excluded.files, created_at = excluded.created_at;
  perform finegrain.append_run_events(project, run, as_fence, jsonb_build_array(jsonb_build_object('type', 'checkpoint', 'step', at_step)));
  return true;
end $$;

-- Ends an attempt. succeeded: registers artifacts and the model, and moves the alias, all at once or not at all.
-- interrupted: the runner was asked to stop; the run is queued again, and the attempt does not count as lost.
-- A run whose cancellation was asked for ends as cancelled, however its trainer ended: no model appears after that.
create function finegrain.runner_finish(
  project uuid, run uuid, as_fence bigint, as_outcome text,
  run_result jsonb, run_failure jsonb, run_artifacts jsonb, new_artifacts jsonb, new_model jsonb, alias text
) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  ending text := as_outcome;
begin
  if not finegrain.holds_run(project, run, as_fence) then return false; end if;
  if (select desired_state from finegrain.runs where project_id = project and id = run) = 'cancelled' then
    ending := 'cancelled';
  end if;
  update finegrain.run_attempts set ended_at = clock_timestamp(), outcome = ending
  where project_id = project and run_id = run and fence = as_fence;
  perform finegrain.append_run_events(project, run, as_fence, jsonb_build_array(
    jsonb_strip_nulls(jsonb_build_object('type', 'attempt_ended', 'outcome', ending, 'failure', run_failure))));
  if ending = 'interrupted' then
    update finegrain.runs set state = 'queued' where project_id = project and id = run;
    perform pg_notify('finegrain_runs', '');
  elsif ending = 'succeeded' then
    insert into finegrain.artifacts (project_id, digest, bytes, media_type)
    select project, a.digest, a.bytes, a.media_type
    from jsonb_to_recordset(new_artifacts) as a (digest text, bytes bigint, media_type text)
    on conflict do nothing;
    if new_model is not null then
      insert into finegrain.models (project_id, id, name, role, digest, tokenizer_digest, files, metrics, run_id)
      select project, m.id, m.name, m.role, m.digest, m.tokenizer_digest, m.files, m.metrics, run
      from jsonb_to_record(new_model) as m (id uuid, name text, role text, digest text, tokenizer_digest text, files jsonb, metrics jsonb);
      if alias is not null then
        insert into finegrain.aliases (project_id, name, model_id) values (project, runner_finish.alias, (new_model ->> 'id')::uuid)
        on conflict (project_id, name) do update set model_id = excluded.model_id, updated_at = now();
      end if;
    end if;
    update finegrain.runs set state = 'succeeded', finished_at = clock_timestamp(), result = run_result, artifacts = run_artifacts
    where project_id = project and id = run;
  else
    update finegrain.runs set state = ending, finished_at = clock_timestamp(),
      failure = case when ending = 'failed' then run_failure end
    where project_id = project and id = run;
  end if;
  return true;
end $$;

revoke execute on function finegrain.append_run_events, finegrain.holds_run, finegrain.reap_lost_attempts, finegrain.runner_claim,
  finegrain.runner_heartbeat, finegrain.runner_report, finegrain.runner_save_checkpoint, finegrain.runner_finish from public;
grant execute on function finegrain.runner_claim, finegrain.runner_heartbeat, finegrain.runner_report,
  finegrain.runner_save_checkpoint, finegrain.runner_finish to finegrain_runner;
set local role finegrain_owner;
