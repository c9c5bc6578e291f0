-- What /metrics tells of runs that wait for others, and of the runners that live.

set local role finegrain_system;

-- {runs: [{kind, hardware, state, runs, oldest_seconds}], runners: [{hardware, state, runners}], jobs: [{task, state, jobs, oldest_seconds}]}
-- A queued run that waits for others has the state `waiting` here. Ages are those of what waits for a runner or a worker: of a
-- queued run since it was made, of a job since it was due. A runner's hardware is all of its classes, with commas.
create or replace function finegrain.operating_figures() returns jsonb
language plpgsql stable security definer set search_path = finegrain, pg_temp as $$
declare
  jobs jsonb := '[]';
begin
  if to_regclass('graphile_worker.jobs') is not null then -- made after this migration, by graphile-worker itself
    select coalesce(jsonb_agg(to_jsonb(figures)), '[]') into jobs from (
      select task_identifier as task, state, count(*) as jobs,
        max(extract(epoch from now() - run_at)) filter (where state = 'waiting') as oldest_seconds
      from (
        select task_identifier, run_at, case
          when locked_at is not null then 'running'
          when attempts >= max_attempts then 'failed'
          when run_at > now() then 'scheduled'
          else 'waiting' end as state
        from graphile_worker.jobs) as job
      group by task_identifier, state) as figures;
  end if;
  return jsonb_build_object(
    'runs', (
      select coalesce(jsonb_agg(to_jsonb(figures)), '[]') from (
        select kind, hardware, shown as state, count(*) as runs,
          case when shown = 'queued' then extract(epoch from now() - min(created_at)) end as oldest_seconds
        from (select kind, hardware, created_at,
            case when state = 'queued' and waits_for > 0 then 'waiting' else state end as shown from finegrain.runs) as run
        group by shown, kind, hardware) as figures),
    'runners', (
      select coalesce(jsonb_agg(to_jsonb(figures)), '[]') from (
        select array_to_string(hardware, ',') as hardware, case when busy_since is null then 'idle' else 'busy' end as state,
          count(*) as runners
        from finegrain.runners r where stopped_at is null and finegrain.is_live(r)
        group by 1, 2) as figures),
    'jobs', jobs);
end $$;
set local role finegrain_owner;
