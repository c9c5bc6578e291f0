-- People who would not judge a pair of responses: they do not get it again. People judge beside a reward model or an LLM, too:
-- what is theirs does not keep such an evaluation from ending.
create table finegrain.judgement_skips (
  project_id uuid not null,
  evaluation_id uuid not null,
  number int not null,
  candidate int not null,
  judge_name text not null,
  reason text,
  created_at timestamptz not null default clock_timestamp(),
  primary key (project_id, evaluation_id, number, candidate, judge_name),
  foreign key (project_id, evaluation_id, number) references finegrain.evaluation_items (project_id, evaluation_id, number)
);
select finegrain.protect('finegrain.judgement_skips');
grant select, insert on finegrain.judgement_skips to finegrain_api;

-- what people may claim, oldest evaluation first
create index judgements_to_claim on finegrain.judgements (project_id, evaluation_id, id)
  where judge_kind = 'person' and state in ('open', 'leased');
