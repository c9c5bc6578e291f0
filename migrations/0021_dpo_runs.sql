-- Runs of the kind dpo: a policy from edits or preferences without a reward model.
alter table finegrain.runs
  drop constraint runs_kind_check,
  add constraint runs_kind_check check (kind in ('sft', 'reward', 'ppo', 'dpo', 'generate'));
