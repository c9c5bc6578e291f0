-- Secrets that a project keeps here, and webhooks: events, told to a URL in at-least-once deliveries.
--
-- A delivery is written by a trigger, in the transaction that makes its event true, and while it is pending there is a
-- job at its due_at: a trigger on the table keeps the two together, so whoever inserts a delivery or moves its due_at
-- (the API's role too, for which add_job is closed) need not think of the job. An attempt begins by moving due_at ahead:
-- that is its lease. When its worker dies, the job at the new due_at tries again.

-- sealed: AES-256-GCM under the key of the operator that key_id names, bound to project and name (src/services/sealing.ts).
create table finegrain.secrets (
  project_id uuid not null references finegrain.projects (id),
  name text not null check (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
  key_id text not null,
  sealed bytea not null,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (project_id, name)
);
select finegrain.protect('finegrain.secrets');
grant select, insert, update, delete on finegrain.secrets to finegrain_api;

-- failing_since: the first failed attempt after the last success, pings aside. A disabled webhook gets no events.
create table finegrain.webhooks (
  project_id uuid not null references finegrain.projects (id),
  id uuid not null,
  url text not null,
  events text[] not null,
  description text,
  key_id text not null, -- key_id and sealed as in secrets: the signing secret
  sealed bytea not null,
  failing_since timestamptz,
  disabled_at timestamptz,
  disabled_reason text,
  created_at timestamptz not null default now(),
  primary key (project_id, id),
  check (num_nulls(disabled_at, disabled_reason) in (0, 2))
);
select finegrain.protect('finegrain.webhooks');
grant select, insert, delete on finegrain.webhooks to finegrain_api;

-- data: ids (bare UUIDs) and states. tries: attempts of the current series; a redelivery begins a new one.
create table finegrain.webhook_deliveries (
  project_id uuid not null,
  id uuid not null,
  webhook_id uuid not null,
  event text not null,
  data jsonb not null,
  state text not null default 'pending' check (state in ('pending', 'delivered', 'failed')),
  tries int not null default 0,
  attempts jsonb not null default '[]', -- [{at, status, error, duration_ms}], all of them
  due_at timestamptz default clock_timestamp(),
  created_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  primary key (project_id, id),
  foreign key (project_id, webhook_id) references finegrain.webhooks (project_id, id) on delete cascade,
  check ((state = 'pending') = (due_at is not null)),
  check ((state = 'pending') = (finished_at is null))
);
create index webhook_deliveries_of_webhook on finegrain.webhook_deliveries (project_id, webhook_id, id);
create index webhook_deliveries_by_age on finegrain.webhook_deliveries (created_at);
select finegrain.protect('finegrain.webhook_deliveries');
grant select, insert on finegrain.webhook_deliveries to finegrain_api;
grant update (state, tries, due_at, finished_at) on finegrain.webhook_deliveries to finegrain_api;

set local role finegrain_system;

-- UUIDv7 (RFC 9562, with the microseconds in rand_a: its method 3) of this moment. uuidv7() needs Postgres 18.
create function finegrain.time_ordered_uuid() returns uuid
language sql volatile parallel safe
return (select (lpad(to_hex(now.us / 1000), 12, '0') || '7' || lpad(to_hex(now.us % 1000 * 4096 / 1000), 3, '0')
    || right(replace(gen_random_uuid()::text, '-', ''), 16))::uuid
  from (select (extract(epoch from clock_timestamp()) * 1000000)::bigint as us) as now);

create function finegrain.keep_delivery_job() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  key text := 'webhook-delivery/' || new.id;
begin
  if new.state = 'pending' then
    perform graphile_worker.add_job('deliver-webhook', run_at := new.due_at, job_key := key,
      payload := json_build_object('project_id', new.project_id, 'delivery_id', new.id),
      priority := 10); -- after the jobs of the service itself
  else
    perform graphile_worker.remove_job(key);
  end if;
  return null;
end $$;

-- Locks the webhooks that it reads: one that is deleted meanwhile gets no delivery, and does not fail the event's transaction.
create function finegrain.add_webhook_event(project uuid, new_event text, event_data jsonb) returns void
language sql set search_path = finegrain, pg_temp as $$
  insert into finegrain.webhook_deliveries (project_id, id, webhook_id, event, data)
  select project, finegrain.time_ordered_uuid(), w.id, new_event, event_data
  from (select id from finegrain.webhooks
    where project_id = project and new_event = any (events) and disabled_at is null for key share) as w
$$;

create function finegrain.on_run_ended() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  perform finegrain.add_webhook_event(new.project_id, 'run.' || new.state, jsonb_build_object(
    'run_id', new.id, 'kind', new.kind, 'state', new.state,
    'model_id', (select id from finegrain.models where project_id = new.project_id and run_id = new.id)));
  return null;
end $$;

create function finegrain.on_model_registered() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
begin
  perform finegrain.add_webhook_event(new.project_id, 'model.registered',
    jsonb_build_object('model_id', new.id, 'role', new.role, 'run_id', new.run_id));
  return null;
end $$;

-- Runs when the transaction commits that ended a task. The lock lets one such commit of a project look at a time: of two
-- that end the last two tasks of a request, the second sees the first. A deleted pair may end several tasks: told once.
create function finegrain.on_edit_task_ended() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  request finegrain.edit_requests;
begin
  if not exists (select from finegrain.webhooks where project_id = old.project_id and 'edit_request.completed' = any (events)) then
    return null;
  end if;
  perform pg_advisory_xact_lock(hashtextextended('edit_request.completed', hashtextextended(old.project_id::text, 0)));
  if exists (select from finegrain.edit_tasks
      where project_id = old.project_id and edit_request_id = old.edit_request_id and state in ('open', 'leased'))
    or exists (select from finegrain.webhook_deliveries
      where project_id = old.project_id and event = 'edit_request.completed' and data ->> 'edit_request_id' = old.edit_request_id::text)
  then
    return null;
  end if;
  select * into request from finegrain.edit_requests
  where project_id = old.project_id and id = old.edit_request_id and cancelled_at is null;
  if found then
    perform finegrain.add_webhook_event(request.project_id, 'edit_request.completed',
      jsonb_build_object('edit_request_id', request.id, 'dataset_id', request.dataset_id, 'state', 'finished'));
  end if;
  return null;
end $$;

revoke execute on function finegrain.keep_delivery_job, finegrain.add_webhook_event, finegrain.on_run_ended,
  finegrain.on_model_registered, finegrain.on_edit_task_ended, finegrain.time_ordered_uuid from public;
grant execute on function finegrain.keep_delivery_job, finegrain.on_run_ended, finegrain.on_model_registered,
  finegrain.on_edit_task_ended to finegrain_owner; -- who makes the triggers
set local role finegrain_owner;

create trigger keep_job after insert or update of state, due_at on finegrain.webhook_deliveries
  for each row execute function finegrain.keep_delivery_job();
create trigger run_ended after update of state on finegrain.runs
  for each row when (old.state <> new.state and new.state in ('succeeded', 'failed', 'cancelled'))
  execute function finegrain.on_run_ended();
create trigger model_registered after insert on finegrain.models
  for each row execute function finegrain.on_model_registered();
create constraint trigger task_submitted after update of state on finegrain.edit_tasks deferrable initially deferred
  for each row when (old.state <> new.state and new.state = 'submitted') execute function finegrain.on_edit_task_ended();
create constraint trigger task_deleted after delete on finegrain.edit_tasks deferrable initially deferred
  for each row when (old.state in ('open', 'leased')) execute function finegrain.on_edit_task_ended();
