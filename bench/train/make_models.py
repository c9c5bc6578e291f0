"""What both sides of bench:train load: a policy, one that cannot end a response, a reward model, the prompts as ids.

    python bench/train/make_models.py POLICY FOLDER < PROMPTS.ndjson

Writes FOLDER/ending and FOLDER/fixed (the policy; in the second no token ends a response), FOLDER/reward (the policy's
shape with a random head: what a reward is worth costs nothing) and FOLDER/prompts.json, a list of lists of token ids.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from finegrain_trainer.data import Message
from finegrain_trainer.models import load_policy, new_reward_model, save_reward_model
from finegrain_trainer.spec import LocalModel, RewardOptions
from finegrain_trainer.tokenizer import SYSTEM

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
policy = load_policy(LocalModel(source), torch.device("cpu"))
shutil.copytree(source, folder / "ending")
shutil.copytree(source, folder / "fixed")
card = json.loads((folder / "fixed/finegrain.json").read_text())
card["eos_token_id"] = SYSTEM  # in no demonstration, so that it is never sampled
(folder / "fixed/finegrain.json").write_text(json.dumps(card))

prompts = [policy.codec.prompt_ids((Message("user", json.loads(line)["prompt"]),)) for line in sys.stdin]
(folder / "prompts.json").write_text(json.dumps(prompts))

model = new_reward_model(policy, "survival", RewardOptions(), seed=9)
with torch.no_grad():
    model.score.weight.mul_(20)  # as it starts, all tokens have nearly the same reward
(folder / "reward").mkdir()
save_reward_model(model, policy, folder / "reward", None)
print(sum(parameter.numel() for parameter in policy.network.parameters()))
