-- The collector's question, so that it costs little while it holds its locks: over 10,000 runs and 200,000 artifacts a
-- pattern for digests took half a minute.

set local role finegrain_system;
drop function finegrain.named_digests();

-- Those of these digests that a row names, some more than once. A column of text is a digest; one of JSON has them as
-- strings, and what stands between two quotes of its text is a string of it, or nothing that looks like a digest.
create function finegrain.named_among(digests text[]) returns setof text
language plpgsql stable set search_path = finegrain, pg_temp as $$
declare
  place record;
begin
  for place in
    select c.relation, c.attribute, a.atttypid = 'jsonb'::regtype as is_json
    from finegrain.digest_columns c join pg_attribute a on a.attrelid = c.relation and a.attname = c.attribute
  loop
    return query execute format(
      case when place.is_json
        then $sql$select part from %s, lateral string_to_table(%I::text, '"') part where part = any ($1)$sql$
        else 'select %2$I from %1$s where %2$I = any ($1)' end,
      place.relation, place.attribute) using digests;
  end loop;
end $$;
revoke execute on function finegrain.named_among from public;
set local role finegrain_owner;
