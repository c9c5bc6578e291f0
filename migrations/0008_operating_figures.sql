-- What /metrics tells of runs and jobs, over all projects: counts and ages only, nothing that says whose they are.

create index runs_by_state on finegrain.runs (state, kind, hardware, created_at);

set local role finegrain_system;

-- {runs: [{kind, hardware, state, runs, oldest_seconds}], busy_runners, jobs: [{task, state, jobs, oldest_seconds}]}
-- Ages are those of what waits: of a queued run since it was made, of a job since it was due.
create function finegrain.operating_figures() returns jsonb
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
        select kind, hardware, state, count(*) as runs,
          case when state = 'queued' then extract(epoch from now() - min(created_at)) end as oldest_seconds
        from finegrain.runs group by state, kind, hardware) as figures),
    'busy_runners', (
      select count(distinct runner) from finegrain.run_attempts
      where ended_at is null and lease_expires_at > now()),
    'jobs', jobs);
end $$;

revoke execute on function finegrain.operating_figures from public;
grant execute on function finegrain.operating_figures to finegrain_api;
set local role finegrain_owner;
