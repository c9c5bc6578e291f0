-- Watching a run: its metrics as compact series, its log while it runs and after, its rollouts; and what of all that is
-- forgotten in time (src/services/run-retention.ts).

-- The series of a metric in one attempt, in the order of its reports, a hundred points a row. A resumed attempt repeats
-- steps: of two points of a step the one of the newer attempt counts.
create table finegrain.run_metrics (
  project_id uuid not null,
  run_id uuid not null,
  name text not null,
  fence bigint not null,
  block bigint not null,
  steps bigint[] not null,
  measured double precision[] not null, -- null: it was no finite number
  primary key (project_id, run_id, name, fence, block),
  foreign key (project_id, run_id) references finegrain.runs (project_id, id),
  check (cardinality(steps) = cardinality(measured))
);
select finegrain.protect('finegrain.run_metrics');
grant select on finegrain.run_metrics to finegrain_api;

-- What the trainer of an attempt wrote: its newest lines while it works; at its end the whole, as an artifact.
create table finegrain.run_logs (
  project_id uuid not null,
  run_id uuid not null,
  fence bigint not null,
  line_count bigint not null,
  newest text[] not null,
  digest text, -- of the whole, gzip; null before the end
  bytes bigint,
  complete boolean, -- false: it was longer than what is kept
  updated_at timestamptz not null default clock_timestamp(),
  primary key (project_id, run_id, fence),
  foreign key (project_id, run_id, fence) references finegrain.run_attempts (project_id, run_id, fence),
  check ((digest is null) = (bytes is null) and (digest is null) = (complete is null))
);
select finegrain.protect('finegrain.run_logs');
grant select on finegrain.run_logs to finegrain_api;

-- Sampled responses of a step with what PPO made of each token: NDJSON under gzip.
create table finegrain.run_rollouts (
  project_id uuid not null,
  run_id uuid not null,
  step bigint not null,
  fence bigint not null,
  digest text not null,
  bytes bigint not null,
  row_count bigint not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (project_id, run_id, step),
  foreign key (project_id, run_id) references finegrain.runs (project_id, id)
);
select finegrain.protect('finegrain.run_rollouts');
grant select on finegrain.run_rollouts to finegrain_api;

-- When the events of a run that nobody watches any more were removed; an end after that has others.
alter table finegrain.runs add trimmed_at timestamptz;
create index runs_untrimmed on finegrain.runs (finished_at)
  where finished_at is not null and (trimmed_at is null or trimmed_at < finished_at);

set local role finegrain_system;

-- Adds what the events of type `metrics` say to the series of this attempt.
create function finegrain.append_run_metrics(project uuid, run uuid, as_fence bigint, new_events jsonb) returns void
language sql set search_path = finegrain, pg_temp as $$
  with points as (
    select v.key as name, (e.event ->> 'step')::bigint as step,
      case jsonb_typeof(v.value) when 'number' then v.value::double precision end as value,
      row_number() over (partition by v.key order by e.position) - 1 as place
    from jsonb_array_elements(new_events) with ordinality as e (event, position)
    cross join lateral jsonb_each(e.event -> 'values') as v
    where e.event ->> 'type' = 'metrics' and length(v.key) <= 200 -- what an index can hold
  ), series as (
    select n.name, coalesce(l.points, 0) as points
    from (select distinct name from points) as n left join lateral (
      select m.block * 100 + cardinality(m.steps) as points from finegrain.run_metrics m
      where m.project_id = project and m.run_id = run and m.name = n.name and m.fence = as_fence
      order by m.block desc limit 1) as l on true
  )
  insert into finegrain.run_metrics as m (project_id, run_id, name, fence, block, steps, measured)
  select project, run, p.name, as_fence, (s.points + p.place) / 100,
    array_agg(p.step order by p.place), array_agg(p.value order by p.place)
  from points p join series s using (name)
  group by p.name, (s.points + p.place) / 100
  on conflict (project_id, run_id, name, fence, block)
  do update set steps = m.steps || excluded.steps, measured = m.measured || excluded.measured
$$;

-- Appends a batch of events, numbered from 1 in each attempt; the newest progress and the first alarm of each code are kept
-- on the run as well, and metrics in their series. A batch that is there already (its answer was lost) changes nothing.
create or replace function finegrain.runner_report(project uuid, run uuid, as_fence bigint, batch bigint, new_events jsonb) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  if not finegrain.holds_run(project, run, as_fence) then return false; end if;
  update finegrain.run_attempts set last_batch = batch
  where project_id = project and run_id = run and fence = as_fence and last_batch < batch;
  if not found then return true; end if;
  perform finegrain.append_run_events(project, run, as_fence, new_events);
  perform finegrain.append_run_metrics(project, run, as_fence, new_events);
  update finegrain.runs set
    state = case when state = 'starting' then 'running' else state end,
    progress = coalesce((
      select e.event - 'type' from jsonb_array_elements(new_events) with ordinality as e (event, position)
      where e.event ->> 'type' = 'progress' order by e.position desc limit 1), progress),
    alarms = finegrain.with_alarms(alarms, new_events)
  where project_id = project and id = run;
  return true;
end $$;

-- The newest lines of the trainer's log, in the place of those before them. kept: {digest, bytes, complete} of the whole.
create function finegrain.runner_log(project uuid, run uuid, as_fence bigint, line_count bigint, newest text[], kept jsonb) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  if not finegrain.holds_run(project, run, as_fence) then return false; end if;
  insert into finegrain.run_logs as l (project_id, run_id, fence, line_count, newest, digest, bytes, complete)
  values (project, run, as_fence, runner_log.line_count, runner_log.newest,
    kept ->> 'digest', (kept ->> 'bytes')::bigint, (kept ->> 'complete')::boolean)
  on conflict (project_id, run_id, fence) do update set line_count = excluded.line_count, newest = excluded.newest,
    digest = excluded.digest, bytes = excluded.bytes, complete = excluded.complete, updated_at = excluded.updated_at;
  return true;
end $$;

-- Saying the same rollouts twice changes nothing.
create function finegrain.runner_save_rollouts(project uuid, run uuid, as_fence bigint, at_step bigint, digest text, bytes bigint, row_count bigint) returns boolean
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  if not finegrain.holds_run(project, run, as_fence) then return false; end if;
  insert into finegrain.run_rollouts as r (project_id, run_id, step, fence, digest, bytes, row_count)
  values (project, run, at_step, as_fence, runner_save_rollouts.digest, runner_save_rollouts.bytes, runner_save_rollouts.row_count)
  on conflict (project_id, run_id, step) do update set fence = excluded.fence, digest = excluded.digest, bytes = excluded.bytes,
    row_count = excluded.row_count, created_at = excluded.created_at
  where (r.fence, r.digest) is distinct from (excluded.fence, excluded.digest);
  if found then
    perform finegrain.append_run_events(project, run, as_fence, jsonb_build_array(
      jsonb_build_object('type', 'rollouts', 'step', at_step, 'count', runner_save_rollouts.row_count)));
  end if;
  return true;
end $$;

revoke execute on function finegrain.append_run_metrics, finegrain.runner_log, finegrain.runner_save_rollouts from public;
grant execute on function finegrain.runner_log, finegrain.runner_save_rollouts to finegrain_runner;
set local role finegrain_owner;

-- the collector of artifacts looks here as well (migration 0010)
insert into finegrain.digest_columns (relation, attribute) values
  ('finegrain.run_logs', 'digest'),
  ('finegrain.run_rollouts', 'digest');
