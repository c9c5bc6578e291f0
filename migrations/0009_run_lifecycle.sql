-- Runs that survive anything: only legal moves between states, pause, resume and retry, priorities, time limits, runs that
-- wait for others, and the runners that live.
--
-- Every event is written once: a batch of a runner carries its number, and a batch that is known already is answered as
-- written. Lease times are moved along when the database's clock is set back, see reap_lost_attempts().

-- Which runners there are and what they can take. Runners serve all projects, so their rows belong to none.
create table finegrain.runners (
  id uuid primary key,
  name text not null,
  hardware text[] not null,
  labels text[] not null,
  devices jsonb not null default '[]', -- [{name, memory_bytes, …}], as the runner found them
  version text not null,
  lease_seconds double precision not null,
  poll_seconds double precision not null,
  started_at timestamptz not null default clock_timestamp(),
  seen_at timestamptz not null default clock_timestamp(),
  busy_since timestamptz,
  stopped_at timestamptz
);
create index runners_live on finegrain.runners (seen_at) where stopped_at is null;
alter table finegrain.runners enable row level security;
alter table finegrain.runners force row level security;
create policy everybody_reads on finegrain.runners for select to finegrain_api using (true);
create policy every_runner on finegrain.runners to finegrain_system using (true) with check (true);
grant select on finegrain.runners to finegrain_api;
grant select, insert, update, delete on finegrain.runners to finegrain_system;

-- waits_for: how many of the runs that it waits for have not succeeded yet.
-- retried_fence: the fence at the last retry; attempts up to it count for no limit. restart_fence: checkpoints of attempts
-- up to it are not taken up.
alter table finegrain.runs
  add priority int not null default 0 check (priority between -1000 and 1000),
  add time_limit_seconds int check (time_limit_seconds between 1 and 31536000),
  add waits_for int not null default 0 check (waits_for >= 0),
  add retried_fence bigint not null default 0,
  add restart_fence bigint not null default 0,
  add check ((state in ('succeeded', 'failed', 'cancelled')) = (finished_at is not null)),
  add check ((state = 'failed') = (failure is not null));
grant update (priority, progress, result, alarms, waits_for, retried_fence, restart_fence) on finegrain.runs to finegrain_api;

drop index finegrain.runs_queue;
create index runs_queue on finegrain.runs (hardware, priority desc, id) where state = 'queued' and waits_for = 0;

alter table finegrain.run_attempts
  add runner_id uuid,
  add last_batch bigint not null default 0, -- the number of the newest batch of events that is written
  drop constraint run_attempts_outcome_check,
  add constraint run_attempts_outcome_check
    check (outcome in ('succeeded', 'failed', 'cancelled', 'interrupted', 'paused', 'lost'));

create table finegrain.run_dependencies (
  project_id uuid not null,
  run_id uuid not null,
  after_run_id uuid not null,
  primary key (project_id, run_id, after_run_id),
  foreign key (project_id, run_id) references finegrain.runs (project_id, id),
  foreign key (project_id, after_run_id) references finegrain.runs (project_id, id)
);
create index run_dependencies_of on finegrain.run_dependencies (project_id, after_run_id);
select finegrain.protect('finegrain.run_dependencies');
grant select, insert on finegrain.run_dependencies to finegrain_api;

-- The table of src/domain/run-states.ts; a test holds them equal.
create function finegrain.run_moves() returns table (from_state text, to_state text)
language sql immutable parallel safe as $$
  values
    ('queued', 'starting'), ('queued', 'paused'), ('queued', 'failed'), ('queued', 'cancelled'),
    ('starting', 'running'), ('starting', 'pausing'), ('starting', 'queued'), ('starting', 'succeeded'), ('starting', 'failed'), ('starting', 'cancelled'),
    ('running', 'pausing'), ('running', 'queued'), ('running', 'succeeded'), ('running', 'failed'), ('running', 'cancelled'),
    ('pausing', 'running'), ('pausing', 'paused'), ('pausing', 'queued'), ('pausing', 'succeeded'), ('pausing', 'failed'), ('pausing', 'cancelled'),
    ('paused', 'queued'), ('paused', 'failed'), ('paused', 'cancelled'),
    ('failed', 'queued'),
    ('cancelled', 'queued')
$$;

create function finegrain.check_run_move() returns trigger
language plpgsql set search_path = finegrain, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    if new.state = 'queued' then return new; end if;
    raise exception 'A run begins as queued, not as %.', new.state using errcode = 'check_violation';
  end if;
  if exists (select from finegrain.run_moves() where from_state = old.state and to_state = new.state) then return new; end if;
  raise exception 'A run cannot go from % to %.', old.state, new.state using errcode = 'check_violation';
end $$;
create trigger run_begins before insert on finegrain.runs for each row execute function finegrain.check_run_move();
create trigger run_moves before update of state on finegrain.runs
  for each row when (old.state <> new.state) execute function finegrain.check_run_move();

set local role finegrain_system;

-- The API asks for pauses, retries and the like, and says so in events of its own.
grant execute on function finegrain.append_run_events to finegrain_api;

-- The ends of a run decide about those that wait for it. A success counts one down, and puts the model that it made in the
-- place of {"run_id": …} in their inputs; anything else, or a model that failed its gate where it is needed, fails them.
create function finegrain.settle_dependents() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  dependent record;
  made jsonb;
  reason text;
begin
  select jsonb_build_object('model_id', 'model_' || replace(m.id::text, '-', ''), 'digest', m.digest,
    'tokenizer_digest', m.tokenizer_digest, 'files', m.files) into made
  from finegrain.models m where m.project_id = new.project_id and m.run_id = new.id;
  for dependent in
    select r.id, r.fence, exists (select from jsonb_each(r.inputs) i where i.value ->> 'run_id' = new.id::text) as uses_model
    from finegrain.run_dependencies d
    join finegrain.runs r on r.project_id = d.project_id and r.id = d.run_id
    where d.project_id = new.project_id and d.after_run_id = new.id and r.state in ('queued', 'paused')
    order by r.id for update of r
  loop
    reason := case
      when new.state <> 'succeeded' then format('it ended as %s', new.state)
      when dependent.uses_model and made is null then 'it made no model'
      when dependent.uses_model and new.result -> 'gate' ->> 'passed' = 'false' then 'its model did not pass its gate'
    end;
    if reason is null then
      update finegrain.runs set waits_for = waits_for - 1,
        inputs = case when dependent.uses_model then (
          select jsonb_object_agg(i.key, case when i.value ->> 'run_id' = new.id::text then made else i.value end)
          from jsonb_each(inputs) i) else inputs end
      where project_id = new.project_id and id = dependent.id;
      perform pg_notify('finegrain_runs', '');
    else
      perform finegrain.append_run_events(new.project_id, dependent.id, dependent.fence, jsonb_build_array(
        jsonb_build_object('type', 'dependency_failed', 'run_id', 'run_' || replace(new.id::text, '-', ''))));
      update finegrain.runs set state = 'failed', finished_at = clock_timestamp(),
        failure = jsonb_build_object('reason', 'dependency_failed', 'exit_code', null, 'log_tail', '[]'::jsonb, 'detail',
          format('This run waited for the %s run run_%s, and %s. Retry that one, then this one.',
            new.kind, replace(new.id::text, '-', ''), reason))
      where project_id = new.project_id and id = dependent.id;
    end if;
  end loop;
  return null;
end $$;

-- A live runner says so with each heartbeat and each look for work; one that has missed three of them counts as gone.
create function finegrain.is_live(runner finegrain.runners) returns boolean
language sql stable set search_path = finegrain, pg_temp as $$
  select runner.stopped_at is null
    and runner.seen_at > clock_timestamp() - make_interval(secs => 5 + 3 * greatest(runner.poll_seconds, runner.lease_seconds / 4))
$$;

create function finegrain.runner_register(
  runner_id uuid, name text, hardware text[], labels text[], devices jsonb, version text,
  lease_seconds double precision, poll_seconds double precision
) returns void
language sql security definer set search_path = finegrain, pg_temp as $$
  delete from finegrain.runners r where r.seen_at < clock_timestamp() - interval '7 days';
  insert into finegrain.runners (id, name, hardware, labels, devices, version, lease_seconds, poll_seconds)
  values (runner_id, name, hardware, labels, devices, version, lease_seconds, poll_seconds)
  on conflict (id) do update set seen_at = clock_timestamp(), stopped_at = null
$$;

create function finegrain.runner_stop(runner_id uuid) returns void
language sql security definer set search_path = finegrain, pg_temp as $$
  update finegrain.runners set stopped_at = clock_timestamp(), busy_since = null where id = runner_id
$$;

-- Attempts whose lease is over are lost; their runs are queued again (paused ones stay so), or fail after max_attempts.
create or replace function finegrain.reap_lost_attempts() returns int
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  attempt record;
  reaped int := 0;
begin
  -- A clock that was set back: leases keep their length from now on, or a dead runner would hold its run for as long as
  -- the clock has lost. A clock that was set forward ends leases early, and the fence keeps that harmless.
  update finegrain.run_attempts set heartbeat_at = clock_timestamp(),
    lease_expires_at = clock_timestamp() + (lease_expires_at - heartbeat_at)
  where ended_at is null and heartbeat_at > clock_timestamp() + interval '5 seconds';
  for attempt in
    select r.project_id, r.id, r.fence, r.max_attempts, r.desired_state, a.runner, a.runner_id,
      (select count(*) from finegrain.run_attempts l where l.project_id = r.project_id and l.run_id = r.id
       and l.fence > r.retried_fence and l.outcome = 'lost') as lost_before
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
    update finegrain.runners set busy_since = null where id = attempt.runner_id;
    perform finegrain.append_run_events(attempt.project_id, attempt.id, attempt.fence,
      jsonb_build_array(jsonb_build_object('type', 'attempt_lost', 'runner', attempt.runner)));
    if attempt.desired_state = 'cancelled' then
      update finegrain.runs set state = 'cancelled', finished_at = clock_timestamp()
      where project_id = attempt.project_id and id = attempt.id;
    elsif attempt.lost_before + 1 >= attempt.max_attempts then
      update finegrain.runs set state = 'failed', finished_at = clock_timestamp(),
        failure = jsonb_build_object('reason', 'lost', 'exit_code', null, 'log_tail', '[]'::jsonb, 'detail',
          format('The runner %s stopped renewing its lease: it was killed, or cut off from the database. That happened to %s attempt(s), and max_attempts is %s.',
            attempt.runner, attempt.lost_before + 1, attempt.max_attempts))
      where project_id = attempt.project_id and id = attempt.id;
    elsif attempt.desired_state = 'paused' then
      update finegrain.runs set state = 'pausing' where project_id = attempt.project_id and id = attempt.id and state <> 'pausing';
      update finegrain.runs set state = 'paused' where project_id = attempt.project_id and id = attempt.id;
    else
      update finegrain.runs set state = 'queued' where project_id = attempt.project_id and id = attempt.id;
      perform pg_notify('finegrain_runs', '');
    end if;
  end loop;
  return reaped;
end $$;

drop function finegrain.runner_claim;

-- The run of the highest priority that fits, the oldest of those. Each hardware class has its own stretch of the index
-- runs_queue, so a claim costs the same behind ten thousand queued runs of another class.
-- seconds_left: of the time limit, null without one.
create function finegrain.runner_claim(runner_id uuid)
returns table (project_id uuid, run_id uuid, kind text, spec jsonb, inputs jsonb, hardware text, fence bigint,
  checkpoint jsonb, seconds_left double precision)
language plpgsql security definer set search_path = finegrain, pg_temp as $$
#variable_conflict use_column
declare
  me finegrain.runners;
  class text;
  claimed finegrain.runs;
begin
  perform finegrain.reap_lost_attempts();
  update finegrain.runners r set seen_at = clock_timestamp(), busy_since = null where r.id = runner_claim.runner_id returning * into me;
  if me.id is null then
    raise exception 'This runner is not registered.' using errcode = 'no_data_found';
  end if;
  for class in
    select c.class from unnest(me.hardware) as c (class) cross join lateral (
      select q.priority, q.id from finegrain.runs q
      where q.state = 'queued' and q.waits_for = 0 and q.hardware = c.class and q.labels <@ me.labels
      order by q.priority desc, q.id limit 1) as first
    order by first.priority desc, first.id
  loop
    update finegrain.runs r set state = 'starting', fence = r.fence + 1,
      started_at = coalesce(r.started_at, clock_timestamp()), progress = null
    where (r.project_id, r.id) = (
      select q.project_id, q.id from finegrain.runs q
      where q.state = 'queued' and q.waits_for = 0 and q.hardware = class and q.labels <@ me.labels
      order by q.priority desc, q.id limit 1 for update skip locked)
    returning r.* into claimed;
    exit when claimed.id is not null;
  end loop;
  if claimed.id is null then return; end if;
  update finegrain.runners r set busy_since = clock_timestamp() where r.id = me.id;
  insert into finegrain.run_attempts (project_id, run_id, fence, runner, runner_id, lease_expires_at)
  values (claimed.project_id, claimed.id, claimed.fence, me.name, me.id, clock_timestamp() + make_interval(secs => me.lease_seconds));
  perform finegrain.append_run_events(claimed.project_id, claimed.id, claimed.fence,
    jsonb_build_array(jsonb_build_object('type', 'attempt_started', 'attempt', claimed.fence, 'runner', me.name)));
  return query select claimed.project_id, claimed.id, claimed.kind, claimed.spec, claimed.inputs, claimed.hardware, claimed.fence,
    (select jsonb_build_object('step', c.step, 'files', c.files) from finegrain.run_checkpoints c
     where c.project_id = claimed.project_id and c.run_id = claimed.id and c.fence > claimed.restart_fence
     order by c.step desc limit 1),
    claimed.time_limit_seconds - (
      select coalesce(sum(extract(epoch from a.ended_at - a.started_at)), 0) from finegrain.run_attempts a
      where a.project_id = claimed.project_id and a.run_id = claimed.id and a.fence > claimed.retried_fence
        and a.ended_at is not null)::double precision;
end $$;

-- Renews the lease and answers the desired state; null tells the runner that the run is no longer its own.
create or replace function finegrain.runner_heartbeat(project uuid, run uuid, as_fence bigint, lease_seconds double precision) returns text
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  if not finegrain.holds_run(project, run, as_fence) then return null; end if;
  update finegrain.run_attempts set heartbeat_at = clock_timestamp(),
    lease_expires_at = clock_timestamp() + make_interval(secs => lease_seconds)
  where project_id = project and run_id = run and fence = as_fence;
  update finegrain.runners set seen_at = clock_timestamp()
  where id = (select runner_id from finegrain.run_attempts where project_id = project and run_id = run and fence = as_fence);
  return (select desired_state from finegrain.runs where project_id = project and id = run);
end $$;

drop function finegrain.runner_report;

-- Appends a batch of events, numbered from 1 in each attempt; the newest progress and the first alarm of each code are kept
-- on the run as well. A batch that is there already (its answer was lost) changes nothing.
create function finegrain.runner_report(project uuid, run uuid, as_fence bigint, batch bigint, new_events jsonb) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  if not finegrain.holds_run(project, run, as_fence) then return false; end if;
  update finegrain.run_attempts set last_batch = batch
  where project_id = project and run_id = run and fence = as_fence and last_batch < batch;
  if not found then return true; end if;
  perform finegrain.append_run_events(project, run, as_fence, new_events);
  update finegrain.runs set
    state = case when state = 'starting' then 'running' else state end,
    progress = coalesce((
      select e.event - 'type' from jsonb_array_elements(new_events) with ordinality as e (event, position)
      where e.event ->> 'type' = 'progress' order by e.position desc limit 1), progress),
    alarms = finegrain.with_alarms(alarms, new_events)
  where project_id = project and id = run;
  return true;
end $$;

-- The alarms of a run and the first of each code among new events.
create function finegrain.with_alarms(alarms jsonb, new_events jsonb) returns jsonb
language sql immutable set search_path = finegrain, pg_temp as $$
  select alarms || coalesce(jsonb_agg(first.event - 'type' order by first.position), '[]') from (
    select distinct on (e.event -> 'code') e.event, e.position
    from jsonb_array_elements(new_events) with ordinality as e (event, position)
    where e.event ->> 'type' = 'alarm' and not alarms @> jsonb_build_array(jsonb_build_object('code', e.event -> 'code'))
    order by e.event -> 'code', e.position) as first
$$;

-- Saying the same checkpoint twice changes nothing.
create or replace function finegrain.runner_save_checkpoint(project uuid, run uuid, as_fence bigint, at_step bigint, checkpoint_files jsonb) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  if not finegrain.holds_run(project, run, as_fence) then return false; end if;
  insert into finegrain.run_checkpoints as c (project_id, run_id, step, fence, files)
  values (project, run, at_step, as_fence, checkpoint_files)
  on conflict (project_id, run_id, step) do update set fence = excluded.fence, files = excluded.files, created_at = excluded.created_at
  where (c.fence, c.files) is distinct from (excluded.fence, excluded.files);
  if found then
    perform finegrain.append_run_events(project, run, as_fence, jsonb_build_array(jsonb_build_object('type', 'checkpoint', 'step', at_step)));
  end if;
  return true;
end $$;

drop function finegrain.runner_finish;

-- Ends an attempt. succeeded: registers artifacts and the model, and moves the alias, all at once or not at all.
-- interrupted, paused: the trainer was stopped after a checkpoint, as its runner or the run was; the attempt does not count
-- as lost. What was asked of the run has the last word: a cancelled run makes no model, a resumed one is queued again.
-- last_events: what is to be said with the end.
create function finegrain.runner_finish(
  project uuid, run uuid, as_fence bigint, as_outcome text,
  run_result jsonb, run_failure jsonb, run_artifacts jsonb, new_artifacts jsonb, new_model jsonb, alias text, last_events jsonb
) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  desired text;
  ending text := as_outcome;
begin
  if not finegrain.holds_run(project, run, as_fence) then return false; end if;
  select desired_state into desired from finegrain.runs where project_id = project and id = run;
  if desired = 'cancelled' then
    ending := 'cancelled';
  elsif as_outcome in ('interrupted', 'paused') then
    ending := case desired when 'paused' then 'paused' else 'interrupted' end;
  end if;
  update finegrain.run_attempts set ended_at = clock_timestamp(), outcome = ending
  where project_id = project and run_id = run and fence = as_fence;
  update finegrain.runners set busy_since = null, seen_at = clock_timestamp()
  where id = (select runner_id from finegrain.run_attempts where project_id = project and run_id = run and fence = as_fence);
  perform finegrain.append_run_events(project, run, as_fence, last_events || jsonb_build_array(
    jsonb_strip_nulls(jsonb_build_object('type', 'attempt_ended', 'outcome', ending, 'failure', run_failure))));
  update finegrain.runs set alarms = finegrain.with_alarms(alarms, last_events) where project_id = project and id = run;
  if ending = 'interrupted' then
    update finegrain.runs set state = 'queued' where project_id = project and id = run;
    perform pg_notify('finegrain_runs', '');
  elsif ending = 'paused' then
    update finegrain.runs set state = 'pausing' where project_id = project and id = run and state <> 'pausing';
    update finegrain.runs set state = 'paused' where project_id = project and id = run;
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

revoke execute on function finegrain.settle_dependents, finegrain.is_live, finegrain.runner_register, finegrain.runner_stop,
  finegrain.runner_claim, finegrain.runner_report, finegrain.with_alarms, finegrain.runner_finish from public;
grant execute on function finegrain.runner_register, finegrain.runner_stop, finegrain.runner_claim, finegrain.runner_report,
  finegrain.runner_finish to finegrain_runner;
grant execute on function finegrain.is_live to finegrain_api;
grant execute on function finegrain.settle_dependents to finegrain_owner; -- who makes the trigger
set local role finegrain_owner;

create trigger settle_dependents after update of state on finegrain.runs
  for each row when (old.state <> new.state and new.state in ('succeeded', 'failed', 'cancelled'))
  execute function finegrain.settle_dependents();
