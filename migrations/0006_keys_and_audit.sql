-- API keys that expire, are rotated with an overlap, and tell when they were last used; the log of administrative acts.

-- expires_at: from then on the key is refused. last_used_at: to the minute. rotated_from: the key that this one succeeds;
-- a key has one successor at most.
alter table finegrain.api_keys
  add column expires_at timestamptz,
  add column last_used_at timestamptz,
  add column rotated_from uuid,
  add foreign key (project_id, rotated_from) references finegrain.api_keys (project_id, id);
create unique index api_keys_successor on finegrain.api_keys (project_id, rotated_from) where rotated_from is not null;

-- The API reads no hash, and changes nothing of a key but when it ends.
revoke select, update on finegrain.api_keys from finegrain_api;
grant select (project_id, id, name, scopes, created_at, revoked_at, expires_at, last_used_at, rotated_from)
  on finegrain.api_keys to finegrain_api;
grant update (revoked_at, expires_at) on finegrain.api_keys to finegrain_api;

-- active, expired or revoked, at this moment.
create function finegrain.key_state(revoked_at timestamptz, expires_at timestamptz) returns text
language sql volatile parallel safe
return case when revoked_at is not null then 'revoked' when expires_at <= clock_timestamp() then 'expired' else 'active' end;

-- key_id null: the bootstrap key. Append only, for every role: the API writes and reads, nobody changes or removes.
create table finegrain.audit_events (
  project_id uuid not null references finegrain.projects (id),
  id uuid not null,
  occurred_at timestamptz not null default clock_timestamp(),
  key_id uuid,
  request_id text not null,
  address text not null,
  action text not null,
  subject text not null,
  detail jsonb not null,
  primary key (project_id, id),
  foreign key (project_id, key_id) references finegrain.api_keys (project_id, id)
);
create index audit_events_of_subject on finegrain.audit_events (project_id, subject, id);
select finegrain.protect('finegrain.audit_events');
revoke update, delete on finegrain.audit_events from finegrain_system;
grant select on finegrain.audit_events to finegrain_api;
-- all but occurred_at: the time is the database's
grant insert (project_id, id, key_id, request_id, address, action, subject, detail) on finegrain.audit_events to finegrain_api;

set local role finegrain_system;

-- Who holds this key; nothing for a hash that is no key's. A key that has ended comes with its state, when it ended, and
-- no scopes, so that a caller who does not look at its state still grants it nothing.
-- last_used_at is written when the last time is over a minute old, and then by one of the requests that come at once: the
-- others skip the locked row. So most requests write nothing, and none waits.
drop function finegrain.authenticate;
create function finegrain.authenticate(key_sha256 bytea)
returns table (project_id uuid, key_id uuid, scopes text[], state text, ended_at timestamptz)
language plpgsql security definer set search_path = finegrain, pg_temp as $$
#variable_conflict use_column
declare
  presented finegrain.api_keys;
begin
  select k.* into presented from finegrain.api_keys k where k.key_sha256 = authenticate.key_sha256;
  if presented.id is null then return; end if;
  project_id := presented.project_id;
  key_id := presented.id;
  state := finegrain.key_state(presented.revoked_at, presented.expires_at);
  scopes := case when state = 'active' then presented.scopes else '{}' end;
  ended_at := case state when 'revoked' then presented.revoked_at when 'expired' then presented.expires_at end;
  return next;
  if state = 'active' and coalesce(presented.last_used_at < clock_timestamp() - interval '1 minute', true) then
    update finegrain.api_keys u set last_used_at = clock_timestamp()
    where (u.project_id, u.id) = (
      select k.project_id, k.id from finegrain.api_keys k
      where k.project_id = presented.project_id and k.id = presented.id
        and coalesce(k.last_used_at < clock_timestamp() - interval '1 minute', true)
      for no key update skip locked);
  end if;
end $$;
revoke execute on function finegrain.authenticate from public;
grant execute on function finegrain.authenticate to finegrain_api;

set local role finegrain_owner;
