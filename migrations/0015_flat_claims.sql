-- A claim costs the same however many runs with other labels are queued before.

-- Labels as one text, since under row-level security an index serves leakproof comparisons only, and those of arrays are not.
create function finegrain.label_key(labels text[]) returns text
language sql immutable parallel safe set search_path = finegrain, pg_temp as $$ select array_to_string(labels, chr(31)) $$;
revoke execute on function finegrain.label_key from public;
grant execute on function finegrain.label_key to finegrain_api, finegrain_system;
alter table finegrain.runs add label_key text not null generated always as (finegrain.label_key(labels)) stored;
drop index finegrain.runs_queue;
create index runs_queue on finegrain.runs (hardware, label_key, priority desc, id) where state = 'queued' and waits_for = 0;

set local role finegrain_system;

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

revoke execute on function finegrain.queued_labels from public;
set local role finegrain_owner;
