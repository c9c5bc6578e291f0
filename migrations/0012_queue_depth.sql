-- What an autoscaler of runners asks: how many queued runs a runner of this class, with these labels, could take now. Over all
-- projects, and a number only: the login of an autoscaler may do nothing else.

grant usage on schema finegrain to finegrain_scaler;

set local role finegrain_system;

-- The condition is that of runner_claim: runs that wait for others need no machine yet.
create function finegrain.queue_depth(hardware text, labels text[] default '{}') returns bigint
language sql stable security definer set search_path = finegrain, pg_temp
as $$
  select count(*) from finegrain.runs q
  where q.state = 'queued' and q.waits_for = 0 and q.hardware = queue_depth.hardware and q.labels <@ queue_depth.labels
$$;

revoke execute on function finegrain.queue_depth from public;
grant execute on function finegrain.queue_depth to finegrain_scaler;
set local role finegrain_owner;
