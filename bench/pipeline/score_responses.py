"""The total that a reward model gives each response of a generate run: NDJSON in, one number a line out.

    python bench/pipeline/score_responses.py REWARD_MODEL POLICY RESPONSES OUTPUT

Sequence models have no graph that the service could score with, hence the trainer's own networks.
"""

import json
import sys
from pathlib import Path

import torch
from finegrain_trainer.batching import collate, length_sorted, unpack
from finegrain_trainer.data import Message
from finegrain_trainer.models import load_policy, load_reward_model
from finegrain_trainer.spec import LocalModel

BATCH = 128


def main(reward_model: Path, policy: Path, responses: Path, output: Path) -> None:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    model, *_ = load_reward_model(reward_model, device)
    codec = load_policy(LocalModel(policy), device).codec
    rows = [json.loads(line) for line in responses.read_text(encoding="utf-8").splitlines()]
    prompts = [codec.prompt_ids((Message("user", row["prompt"]),)) for row in rows]
    answers = [row["token_ids"] for row in rows]
    totals = [0.0] * len(rows)
    for batch in length_sorted([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)], BATCH):
        asked, given = [prompts[row] for row in batch], [answers[row] for row in batch]
        mask = collate(asked, given, device).is_response
        sums = unpack(model.response_rewards(asked, given), mask).sum(1)
        for row, total in zip(batch, sums.tolist(), strict=True):
            totals[row] = total
    aside = output.with_suffix(".writing")
    aside.write_text("".join(f"{json.dumps(total)}\n" for total in totals), encoding="utf-8")
    aside.rename(output)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
