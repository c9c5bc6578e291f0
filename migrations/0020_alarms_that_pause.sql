-- An alarm may ask for its run to be paused: the trainer keeps a checkpoint and ends, and the run waits for somebody.

set local role finegrain_system;

-- Appends a batch of events, numbered from 1 in each attempt; the newest progress and the first alarm of each code are kept
-- on the run as well, and metrics in their series. An alarm with the action `pause` is the wish to pause the run, unless
-- somebody wishes to cancel it. A batch that is there already (its answer was lost) changes nothing.
create or replace function finegrain.runner_report(project uuid, run uuid, as_fence bigint, batch bigint, new_events jsonb) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  pauses boolean;
begin
  if not finegrain.holds_run(project, run, as_fence) then return false; end if;
  update finegrain.run_attempts set last_batch = batch
  where project_id = project and run_id = run and fence = as_fence and last_batch < batch;
  if not found then return true; end if;
  perform finegrain.append_run_events(project, run, as_fence, new_events);
  perform finegrain.append_run_metrics(project, run, as_fence, new_events);
  pauses := exists (
    select from jsonb_array_elements(new_events) as e (event)
    where e.event ->> 'type' = 'alarm' and e.event ->> 'action' = 'pause');
  update finegrain.runs set
    desired_state = case when pauses and desired_state = 'running' then 'paused' else desired_state end,
    state = case
      when pauses and desired_state = 'running' and state in ('starting', 'running') then 'pausing'
      when state = 'starting' then 'running'
      else state
    end,
    progress = coalesce((
      select e.event - 'type' from jsonb_array_elements(new_events) with ordinality as e (event, position)
      where e.event ->> 'type' = 'progress' order by e.position desc limit 1), progress),
    alarms = finegrain.with_alarms(alarms, new_events)
  where project_id = project and id = run;
  return true;
end $$;
