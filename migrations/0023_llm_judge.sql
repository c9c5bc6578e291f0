-- The llm judge of an evaluation works as the service's own editor does (0018): one table for what either asks for, has used
-- and is due. id: of the edit request or evaluation. refused: answers that could not be taken. Cancelling clears due_at.

alter table finegrain.llm_editors rename to llm_work;
alter table finegrain.llm_work
  drop constraint llm_editors_pkey,
  alter column edit_request_id drop not null,
  add column evaluation_id uuid,
  add column id uuid generated always as (coalesce(edit_request_id, evaluation_id)) stored,
  add primary key (project_id, id),
  add foreign key (project_id, evaluation_id) references finegrain.evaluations (project_id, id),
  add constraint llm_work_for_one check (num_nonnulls(edit_request_id, evaluation_id) = 1);

set local role finegrain_system;
create or replace function finegrain.keep_llm_job() returns trigger
language plpgsql security definer set search_path = finegrain, pg_temp as $$
declare
  edits boolean := new.edit_request_id is not null;
  key text := case when edits then 'llm-edits/' else 'llm-judgements/' end || new.id;
begin
  if new.due_at is not null then
    perform graphile_worker.add_job(case when edits then 'edit-with-llm' else 'judge-with-llm' end,
      run_at := new.due_at, job_key := key, payload := json_strip_nulls(json_build_object(
        'project_id', new.project_id, 'edit_request_id', new.edit_request_id, 'evaluation_id', new.evaluation_id)));
  else
    perform graphile_worker.remove_job(key);
  end if;
  return null;
end $$;
set local role finegrain_owner;
