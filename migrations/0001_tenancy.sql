-- Projects, API keys and the row-level security that everything else stands on (DESIGN 8).
-- Run by `finegrain migrate` as finegrain_owner; the four roles exist already (src/db/migrate.ts).
--
-- Every table of a project carries project_id first in its primary, unique and foreign keys, because foreign keys
-- are checked without row-level security. protect() gives such a table its two policies.

create schema finegrain;
grant usage on schema finegrain to finegrain_api, finegrain_system, finegrain_runner;
grant create on schema finegrain to finegrain_system; -- owns the SECURITY DEFINER functions

-- The project of this transaction; null (no row visible) when none was set. The setting becomes '' after a commit.
create function finegrain.current_project() returns uuid
language sql stable parallel safe
return nullif(current_setting('finegrain.project', true), '')::uuid;

create function finegrain.protect(target regclass, project_column name default 'project_id') returns void
language plpgsql as $$
begin
  execute format('alter table %s enable row level security', target);
  execute format('alter table %s force row level security', target);
  execute format('create policy own_project on %s to finegrain_api using (%I = finegrain.current_project()) with check (%I = finegrain.current_project())',
    target, project_column, project_column);
  execute format('create policy every_project on %s to finegrain_system using (true) with check (true)', target);
  execute format('grant select, insert, update, delete on %s to finegrain_system', target);
end $$;
revoke execute on function finegrain.protect from public;

create table finegrain.projects (
  id uuid primary key,
  name text not null check (length(name) between 1 and 200),
  created_at timestamptz not null default now()
);
select finegrain.protect('finegrain.projects', 'id');
grant select on finegrain.projects to finegrain_api;

create table finegrain.api_keys (
  project_id uuid not null references finegrain.projects (id),
  id uuid not null,
  name text not null,
  key_sha256 bytea not null unique check (length(key_sha256) = 32),
  scopes text[] not null,
  created_at timestamptz not null default now(),
  revoked_at timestamptz,
  primary key (project_id, id)
);
select finegrain.protect('finegrain.api_keys');
grant select, insert, update on finegrain.api_keys to finegrain_api;

-- The project of the bootstrap key (FINEGRAIN_API_KEY). Row-level security binds the owner too, hence the policy's role.
set local role finegrain_system;
insert into finegrain.projects (id, name) values ('00000000-0000-7000-8000-000000000000', 'default');

-- What a key may do, before any project is known. 256 random bits are looked up by their hash, so there is nothing
-- for a timing attack to learn.
create function finegrain.authenticate(key_sha256 bytea)
returns table (project_id uuid, key_id uuid, scopes text[])
language sql stable security definer set search_path = finegrain, pg_temp
as $$
  select k.project_id, k.id, k.scopes from finegrain.api_keys k
  where k.key_sha256 = authenticate.key_sha256 and k.revoked_at is null
$$;

create function finegrain.create_project(id uuid, name text, key_id uuid, key_sha256 bytea)
returns finegrain.projects
language sql security definer set search_path = finegrain, pg_temp
as $$
  with project as (
    insert into finegrain.projects (id, name) values (create_project.id, create_project.name) returning *
  ), key as (
    insert into finegrain.api_keys (project_id, id, name, key_sha256, scopes)
    select project.id, create_project.key_id, 'first key', create_project.key_sha256, '{admin}' from project
  )
  select * from project
$$;

create function finegrain.list_projects(after uuid, page_size int) returns setof finegrain.projects
language sql stable security definer set search_path = finegrain, pg_temp
as $$
  select * from finegrain.projects where list_projects.after is null or id > list_projects.after
  order by id limit page_size
$$;

revoke execute on function finegrain.authenticate, finegrain.create_project, finegrain.list_projects from public;
grant execute on function finegrain.authenticate, finegrain.create_project, finegrain.list_projects to finegrain_api;
set local role finegrain_owner;
