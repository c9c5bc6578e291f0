-- A runner may give an attempt up for reasons of its machine (the trainer was killed or hung, the disk is full, the artifact
-- store is away): it then counts as lost, and another attempt goes on from the last checkpoint, up to max_attempts.

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

-- Which of these attempts have ended, so that what they left on a runner's disk can go.
create function finegrain.runner_ended_attempts(run_ids uuid[], fences bigint[]) returns table (run_id uuid, fence bigint)
language sql stable security definer set search_path = finegrain, pg_temp as $$
  select a.run_id, a.fence from unnest(run_ids, fences) as asked (run_id, fence)
  join finegrain.run_attempts a on a.run_id = asked.run_id and a.fence = asked.fence
  where a.ended_at is not null
$$;

revoke execute on function finegrain.lost_attempts, finegrain.runner_ended_attempts from public;
grant execute on function finegrain.runner_ended_attempts to finegrain_runner;
set local role finegrain_owner;
