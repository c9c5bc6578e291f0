-- A runner may give an attempt up for reasons of its machine (the trainer was killed or hung, the disk is full, the artifact
-- store is away): it then counts as lost, and another attempt goes on from the last checkpoint, up to max_attempts.
-- And claims cost the same however many runs with other labels are queued before.

-- Labels as one text, since under row-level security an index serves leakproof comparisons only, and those of arrays are not.
create function finegrain.label_key(labels text[]) returns text
language sql immutable parallel safe set search_path = finegrain, pg_temp as $$ select array_to_string(labels, chr(31)) $$;
revoke execute on function finegrain.label_key from public;
grant execute on function finegrain.label_key to finegrain_api, finegrain_system;
alter table finegrain.runs add label_key text not null generated always as (finegrain.label_key(labels)) stored;
drop index finegrain.runs_queue;
create index runs_queue on finegrain.runs (hardware, label_key, priority desc, id) where state = 'queued' and waits_for = 0;
create index run_attempts_of_run on finegrain.run_attempts (run_id);

set local role finegrain_system;

-- Attempts since the last retry that count for max_attempts.
create function finegrain.lost_attempts(project uuid, run uuid) returns bigint
language sql stable set search_path = finegrain, pg_temp as $$
  select count(*) from finegrain.run_attempts a join finegrain.runs r on r.project_id = a.project_id and r.id = a.run_id
  where a.project_id = project and a.run_id = run and a.fence > r.retried_fence and a.outcome = 'lost'
$$;

-- Ends an attempt. succeeded: registers artifacts and the model, and moves the alias, all at once or not at all.
-- interrupted, paused: the trainer was stopped after a checkpoint, as its runner or the run was; the attempt does not count
-- as lost. lost: run_failure says why the runner gave it up; it becomes the run's when no attempt is left.
-- What was asked of the run has the last word: a cancelled run makes no model, a resumed one is queued again.
-- last_events: what is to be said with the end.
create or replace function finegrain.runner_finish(
  project uuid, run uuid, as_fence bigint, as_outcome text,
  run_result jsonb, run_failure jsonb, run_artifacts jsonb, new_artifacts jsonb, new_model jsonb, alias text, last_events jsonb
) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  desired text;
  ending text := as_outcome;
  next_state text;
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
  next_state := case
    when ending = 'interrupted' then 'queued'
    when ending <> 'lost' then ending
    when finegrain.lost_attempts(project, run) >= (select max_attempts from finegrain.runs where project_id = project and id = run) then 'failed'
    when desired = 'paused' then 'paused'
    else 'queued'
  end;
  if next_state = 'queued' then
    update finegrain.runs set state = 'queued' where project_id = project and id = run;
    perform pg_notify('finegrain_runs', '');
  elsif next_state = 'paused' then
    update finegrain.runs set state = 'pausing' where project_id = project and id = run and state <> 'pausing';
    update finegrain.runs set state = 'paused' where project_id = project and id = run;
  elsif next_state = 'succeeded' then
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
    update finegrain.runs set state = next_state, finished_at = clock_timestamp(),
      failure = case when next_state = 'failed' then run_failure end
    where project_id = project and id = run;
  end if;
  return true;
end $$;

-- The sets of labels that queued runs of a hardware class have, found by one step in runs_queue for each.
create function finegrain.queued_labels(class text) returns table (label_key text, labels text[])
language sql stable set search_path = finegrain, pg_temp as $$
  with recursive sets (label_key, labels) as (
    (select q.label_key, q.labels from finegrain.runs q where q.state = 'queued' and q.waits_for = 0 and q.hardware = class
     order by q.label_key limit 1)
    union all
    select next.label_key, next.labels from sets cross join lateral (
      select q.label_key, q.labels from finegrain.runs q
      where q.state = 'queued' and q.waits_for = 0 and q.hardware = class and q.label_key > sets.label_key
      order by q.label_key limit 1) as next)
  select label_key, labels from sets
$$;

-- The run of the highest priority that fits, the oldest of those. Each hardware class with each set of labels has its own
-- stretch of runs_queue. Looking through the runs of a class in their order and passing over those with other labels took
-- six times as long behind ten thousand of them (npm run bench:queue).
-- seconds_left: of the time limit, null without one.
create or replace function finegrain.runner_claim(runner_id uuid)
returns table (project_id uuid, run_id uuid, kind text, spec jsonb, inputs jsonb, hardware text, fence bigint,
  checkpoint jsonb, seconds_left double precision)
language plpgsql security definer set search_path = finegrain, pg_temp as $$
#variable_conflict use_column
declare
  me finegrain.runners;
  stretch record;
  claimed finegrain.runs;
begin
  perform finegrain.reap_lost_attempts();
  update finegrain.runners r set seen_at = clock_timestamp(), busy_since = null where r.id = runner_claim.runner_id returning * into me;
  if me.id is null then
    raise exception 'This runner is not registered.' using errcode = 'no_data_found';
  end if;
  for stretch in
    select c.class, l.label_key from unnest(me.hardware) as c (class)
    cross join lateral finegrain.queued_labels(c.class) as l
    cross join lateral (
      select q.priority, q.id from finegrain.runs q
      where q.state = 'queued' and q.waits_for = 0 and q.hardware = c.class and q.label_key = l.label_key
      order by q.priority desc, q.id limit 1) as first
    where l.labels <@ me.labels
    order by first.priority desc, first.id
  loop
    update finegrain.runs r set state = 'starting', fence = r.fence + 1,
      started_at = coalesce(r.started_at, clock_timestamp()), progress = null
    where (r.project_id, r.id) = (
      select q.project_id, q.id from finegrain.runs q
      where q.state = 'queued' and q.waits_for = 0 and q.hardware = stretch.class and q.label_key = stretch.label_key
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

-- Which of these attempts have ended, so that what they left on a runner's disk can go.
create function finegrain.runner_ended_attempts(run_ids uuid[], fences bigint[]) returns table (run_id uuid, fence bigint)
language sql stable security definer set search_path = finegrain, pg_temp as $$
  select a.run_id, a.fence from unnest(run_ids, fences) as asked (run_id, fence)
  join finegrain.run_attempts a on a.run_id = asked.run_id and a.fence = asked.fence
  where a.ended_at is not null
$$;

revoke execute on function finegrain.lost_attempts, finegrain.queued_labels, finegrain.runner_ended_attempts from public;
grant execute on function finegrain.runner_ended_attempts to finegrain_runner;
set local role finegrain_owner;
