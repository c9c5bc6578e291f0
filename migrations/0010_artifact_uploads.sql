-- What keeps the collector of artifacts away from every blob that a row names; uploads in parts.
--
-- Blobs lie in the artifact store, outside of transactions, so the two sides meet in advisory locks. Whoever makes a row
-- that names digests calls hold_digests() before the commit, and then looks whether the store still has them. Whoever
-- deletes blobs takes them by condemn_digests() and then asks, in a statement of its own, which of them named_digests()
-- lacks. As long as one side has a digest the other has not: a blob is deleted before the writer looks, and so put again,
-- or after the row is committed, and so not at all.

-- Where digests are named: a column of text, jsonb or an array of them, with digests anywhere in it. A later table adds
-- its row here; test/db/catalog.test.ts finds the one that was forgotten.
create table finegrain.digest_columns (
  relation regclass not null,
  attribute name not null,
  primary key (relation, attribute)
);
alter table finegrain.digest_columns enable row level security;
alter table finegrain.digest_columns force row level security;
create policy system_reads on finegrain.digest_columns for select to finegrain_system using (true);
create policy owner_writes on finegrain.digest_columns for insert to finegrain_owner with check (true);
grant select on finegrain.digest_columns to finegrain_system;
insert into finegrain.digest_columns (relation, attribute) values
  ('finegrain.artifacts', 'digest'),
  ('finegrain.snapshots', 'digest'),
  ('finegrain.models', 'files'),
  ('finegrain.models', 'tokenizer_digest'),
  ('finegrain.runs', 'inputs'),
  ('finegrain.runs', 'artifacts'),
  ('finegrain.run_checkpoints', 'files');

-- Under which lock a digest is named or deleted. The seed keeps these locks apart from those of editors (0) and of
-- Idempotency-Keys (1).
create function finegrain.digest_lock(digest text) returns bigint
language sql immutable parallel safe
return hashtextextended(digest, 2);

-- For whoever is about to name these digests: until the end of the transaction no collector has them.
create function finegrain.hold_digests(digests text[]) returns void
language plpgsql set search_path = finegrain, pg_temp as $$
declare
  held text;
begin
  for held in select distinct d from unnest(digests) d order by d loop
    perform pg_advisory_xact_lock_shared(finegrain.digest_lock(held));
  end loop;
end $$;
revoke execute on function finegrain.digest_lock, finegrain.hold_digests from public;
grant execute on function finegrain.digest_lock, finegrain.hold_digests to finegrain_api, finegrain_system, finegrain_runner;

set local role finegrain_system;

-- For the collector: those of these digests that nobody is about to name. It waits for nobody, so it blocks nobody who
-- holds one digest and wants another.
create function finegrain.condemn_digests(digests text[]) returns setof text
language sql set search_path = finegrain, pg_temp as $$
  select d from unnest(digests) d where pg_try_advisory_xact_lock(finegrain.digest_lock(d))
$$;

-- Every digest that a row names; some more than once, and some that are no blob's.
create function finegrain.named_digests() returns setof text
language plpgsql stable set search_path = finegrain, pg_temp as $$
declare
  place finegrain.digest_columns;
begin
  for place in select * from finegrain.digest_columns loop
    return query execute format(
      $sql$select m[1] from %s, lateral regexp_matches(%I::text, 'sha256:[0-9a-f]{64}', 'g') m$sql$,
      place.relation, place.attribute);
  end loop;
end $$;
revoke execute on function finegrain.condemn_digests, finegrain.named_digests from public;

set local role finegrain_owner;

-- An upload in parts, until it is completed, aborted or expired. What has arrived is known to the store alone.
-- reference: the store's own name for it. digest and bytes: as announced; they name no blob yet.
create table finegrain.artifact_uploads (
  project_id uuid not null references finegrain.projects (id),
  id uuid not null,
  digest text not null check (digest ~ '^sha256:[0-9a-f]{64}$'),
  bytes bigint not null check (bytes > 0),
  part_bytes bigint not null check (part_bytes > 0),
  media_type text not null,
  reference text,
  created_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz not null,
  primary key (project_id, id)
);
create index artifact_uploads_by_expiry on finegrain.artifact_uploads (expires_at);
select finegrain.protect('finegrain.artifact_uploads');
grant select, insert, delete on finegrain.artifact_uploads to finegrain_api;
