-- What the HTTP contract keeps: answers under their Idempotency-Key, and the secret that signs cursors.

-- An answer is stored by the transaction that has the effect, so there is never one without the other. Only successes
-- are here. request_sha256: over method, path, query and canonical body; body: the text as it was sent, null for none.
create table finegrain.idempotency_keys (
  project_id uuid not null references finegrain.projects (id),
  key text not null check (length(key) between 1 and 255),
  request_sha256 bytea not null check (length(request_sha256) = 32),
  status int not null check (status between 200 and 299),
  headers jsonb not null,
  body text,
  created_at timestamptz not null default now(),
  primary key (project_id, key)
);
create index idempotency_keys_by_age on finegrain.idempotency_keys (created_at);
select finegrain.protect('finegrain.idempotency_keys');
grant select, insert on finegrain.idempotency_keys to finegrain_api;

-- One row, of no project. The secret is made here, so that every process on this database signs alike and nobody has to
-- configure it: gen_random_uuid() draws on the system's strong randomness, and three of them hold 366 bits of it.
create table finegrain.installation (
  only_row boolean primary key default true check (only_row),
  cursor_secret bytea not null check (length(cursor_secret) = 32)
);
insert into finegrain.installation (cursor_secret)
values (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));
alter table finegrain.installation enable row level security;
alter table finegrain.installation force row level security;
create policy system_reads on finegrain.installation for select to finegrain_system using (true);
grant select on finegrain.installation to finegrain_system;

set local role finegrain_system;
create function finegrain.cursor_secret() returns bytea
language sql stable security definer set search_path = finegrain, pg_temp
return (select i.cursor_secret from finegrain.installation i);
revoke execute on function finegrain.cursor_secret from public;
grant execute on function finegrain.cursor_secret to finegrain_api;
set local role finegrain_owner;
