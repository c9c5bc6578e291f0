-- Deadlines of edit requests, tasks that failed, and the service's own editor: a language model behind a chat endpoint.
--
-- The work on a request for an `llm` is done in slices, one at a time. While there is something to do, due_at says when,
-- and a trigger keeps a job there, as for deliveries of webhooks (0007). A slice begins by moving due_at ahead: that is its
-- lease, renewed as long as it works; when its worker dies, the job at due_at begins the next one. Each has a fence, and
-- what an older one still writes changes nothing.

alter table finegrain.edit_requests add column deadline timestamptz;

-- failure: {reason, detail, last_output} of a task that the service gave up. It keeps its editor, as a submitted one does.
alter table finegrain.edit_tasks add column failure jsonb,
  drop constraint edit_tasks_state_check, drop constraint edit_tasks_check, drop constraint edit_tasks_check1,
  add constraint edit_tasks_state_check check (state in ('open', 'leased', 'submitted', 'failed', 'cancelled')),
  add constraint edit_tasks_held check ((state in ('leased', 'submitted', 'failed')) = (num_nulls(editor_kind, editor_name, lease_sha256, lease_seconds, lease_expires_at) = 0)),
  add constraint edit_tasks_free check ((state in ('open', 'cancelled')) = (num_nonnulls(editor_kind, editor_name, lease_sha256, lease_seconds, lease_expires_at) = 0)),
  add constraint edit_tasks_failed check ((state = 'failed') = (failure is not null));

-- Of the file that asked a model for it; null for the edits of everybody else.
alter table finegrain.edits add column prompt_version text;

-- settings: as they were asked for, with defaults; never a key, but the name of a secret. Prices are per million tokens.
-- reserved_…: what the calls under way may cost at most; counted as spent when their slice is lost.
create table finegrain.llm_editors (
  project_id uuid not null,
  edit_request_id uuid not null,
  settings jsonb not null,
  input_price double precision,
  output_price double precision,
  max_total_tokens bigint,
  max_cost double precision,
  requests bigint not null default 0, -- calls of the endpoint
  retries bigint not null default 0,  -- calls among them that repeated one
  refused bigint not null default 0,  -- answers that were no edit
  input_tokens bigint not null default 0,
  output_tokens bigint not null default 0,
  reserved_input bigint not null default 0,
  reserved_output bigint not null default 0,
  fence int not null default 0,
  troubles int not null default 0, -- slices in a row that ended because the endpoint did not serve
  due_at timestamptz default clock_timestamp(),
  stopped jsonb, -- {reason, detail, at}: until somebody resumes it
  primary key (project_id, edit_request_id),
  foreign key (project_id, edit_request_id) references finegrain.edit_requests (project_id, id),
  check (num_nulls(input_price, output_price) in (0, 2)),
  check (max_cost is null or input_price is not null),
  check (stopped is null or due_at is null)
);
select finegrain.protect('finegrain.llm_editors');
grant select, insert, update on finegrain.llm_editors to finegrain_api;

set local role finegrain_system;
create function finegrain.keep_llm_job() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  key text := 'llm-edits/' || new.edit_request_id;
begin
  if new.due_at is not null then
    perform graphile_worker.add_job('edit-with-llm', run_at := new.due_at, job_key := key,
      payload := json_build_object('project_id', new.project_id, 'edit_request_id', new.edit_request_id));
  else
    perform graphile_worker.remove_job(key);
  end if;
  return null;
end $$;
revoke execute on function finegrain.keep_llm_job from public;
grant execute on function finegrain.keep_llm_job to finegrain_owner; -- who makes the trigger
set local role finegrain_owner;

create trigger keep_job after insert or update of due_at on finegrain.llm_editors
  for each row execute function finegrain.keep_llm_job();
drop trigger task_submitted on finegrain.edit_tasks;
create constraint trigger task_ended after update of state on finegrain.edit_tasks deferrable initially deferred
  for each row when (old.state <> new.state and new.state in ('submitted', 'failed')) execute function finegrain.on_edit_task_ended();
