"""What goes wrong in reinforcement learning, and how one sees it: the reward model probed before the first step, and
alarms while the policy moves (the paper's failure signatures, and what people have seen policies do to rewards).
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from .alarms import Alarms

# Responses that are abused to probe the reward model, and how often a token must occur among them to be a candidate for
# being said on and on.
PROBED_RESPONSES = 64
OFTEN = 5
# Steps that a recent mean is over, and how many there must be before it says anything.
RECENT_STEPS = 5


def abuses(responses: list[list[int]], rewards: Tensor, eos: int, longest: int) -> dict[str, list[list[int]]]:
    """What a policy could say for reward rather than for its reader, made from its responses; each closed by EOS.

    `empty`: nothing; `half`: the first half; `twice`: everything twice; `one_token`: the best-paid token on and on, as
    long as the response. `rewards` [batch, time] are those of `responses`; none becomes longer than `longest`
    tokens.
    """
    bodies = [ids[:-1] if ids[-1] == eos else ids for ids in responses]
    paid: dict[int, float] = Counter()
    count = Counter(token for ids in responses for token in ids if token != eos)
    for ids, row in zip(responses, rewards.tolist(), strict=True):
        for token, reward in zip(ids, row, strict=False):
            paid[token] += reward
    often = [token for token in count if count[token] >= OFTEN] or [*count] or [eos]
    best = max(often, key=lambda token: (paid[token] / max(1, count[token]), -token))
    return {
        "empty": [[eos] for _ in bodies],
        "half": [[*ids[: len(ids) // 2], eos] for ids in bodies],
        "twice": [[*(ids * 2)[: longest - 1], eos] for ids in bodies],
        "one_token": [[*[best] * len(ids), eos] for ids in bodies],
    }


def token_shares(ids: Tensor, mask: Tensor, eos: int, vocab_size: int) -> Tensor:
    """Share [vocab] of each token among the sampled `ids` [batch, time] on `mask`, EOS left out."""
    said = ids[mask & (ids != eos)]
    return torch.bincount(said, minlength=vocab_size).double().cpu() / max(1, len(said))


class PolicyWatch:
    """Looks at the metrics of each step beside those of recent ones and of the starting policy.

    `start_shares`: token_shares of the starting policy.
    """

    def __init__(self, alarms: Alarms, start_length: float, start_shares: Tensor, s: float):
        self._alarms = alarms
        self._start_length = start_length
        self.start_shares = start_shares
        self._s = s
        self._recent: dict[str, list[float]] = {"reward_sum": [], "explained_variance": []}

    def state(self) -> dict[str, Any]:
        return {"recent": self._recent}

    def restore(self, state: dict[str, Any]) -> None:
        self._recent = state["recent"]

    def probed(self, gains: dict[str, float]) -> None:
        """`gains`: by how much each of abuses() is paid better than the responses it was made from, in units of s."""
        worst = max(gains, key=lambda name: gains[name])
        self._alarms.above(
            "hackable_reward", 0, gains[worst],
            f"the reward model pays {NAMES_OF_ABUSES[worst]} better than what the policy says, by so many standard "
            "deviations of a response's reward, and PPO will find out: train it on such responses, or change the loss",
        )  # fmt: skip

    def step(self, step: int, metrics: dict[str, float | None], shares: Tensor, text_of: Any) -> None:
        """After each step; `shares` [vocab]: token_shares of its rollouts; `text_of(token)`: the text of a token."""
        above, below = self._alarms.above, self._alarms.below
        above(
            "high_kl", step, metrics["kl_per_token"],
            "the policy has left the region where its rewards were learned; a higher beta, or kl_target, holds it",
        )  # fmt: skip
        above(
            "length_drift", step, abs(metrics["length"] / self._start_length - 1),
            f"responses have {metrics['length']:.1f} tokens; they began with {self._start_length:.1f}. Are they "
            "better, or does length itself pay? (`mu`, `reward_placement`, `truncation_cost`)",
        )  # fmt: skip
        grown = shares - self.start_shares
        token = int(grown.argmax())
        above(
            "token_farming", step, grown[token].item(),
            f"the token {text_of(token)!r} is now {shares[token]:.0%} of all that is said; it was "
            f"{self.start_shares[token]:.0%}. See what it is paid in the rollouts",
        )  # fmt: skip
        if (before := self._before("reward_sum", metrics["reward_sum"])) is not None:
            above(
                "reward_spike", step, (metrics["reward_sum"] - before) / self._s,
                f"the mean reward jumped from {before:.2f} to {metrics['reward_sum']:.2f}, by so many standard "
                "deviations of a response's: rather a hole in the reward model than learning. Look at the rollouts",
            )  # fmt: skip
        if (explained := self._before("explained_variance", metrics["explained_variance"])) is not None:
            below(
                "value_collapse", step, explained,
                "the critic is further off than one that always says the mean; a lower learning_rate, a separate "
                "critic or advantage leave_one_out helps",
            )  # fmt: skip

    def evaluated(self, step: int, half: int, rows: dict[int, list[dict[str, Any]]]) -> None:
        """After the evaluation of `step`; `rows`: of each evaluation; that of step 0 is the starting policy's."""
        judge = "judge_reward" if "judge_reward" in rows[step][0] else "reward"
        if step >= half > 0:
            rate = win_rate(rows[step], rows[0], judge)
            self._alarms.below(
                "flat_win_rate", step, rate,
                f"the policy is hardly preferred to the one it started from (± {0.98 / len(rows[0]) ** 0.5:.3f} with "
                f"{len(rows[0])} prompts): the reward model does not tell good from bad, or nothing is learned",
            )  # fmt: skip
        if judge == "judge_reward":
            rates = {at: win_rate(rows[at], rows[0], judge) for at in sorted(rows) if at <= step}
            best = max(rates, key=lambda at: rates[at])
            if mean_of(rows[step], "reward") > mean_of(rows[best], "reward"):
                self._alarms.above(
                    "judge_falls", step, rates[best] - rates[step],
                    f"rewards have risen since step {best}, and the judge's win rate has fallen from "
                    f"{rates[best]:.3f} to {rates[step]:.3f}: the reward model is being exploited",
                )  # fmt: skip

    def _before(self, name: str, value: float | None) -> float | None:
        """The mean of the last RECENT_STEPS values before `value`, once there are as many; remembers `value`."""
        if value is None:
            return None
        recent = self._recent[name]
        result = sum(recent) / len(recent) if len(recent) == RECENT_STEPS else None
        self._recent[name] = [*recent, value][-RECENT_STEPS:]
        return result


NAMES_OF_ABUSES = {
    "empty": "saying nothing",
    "half": "stopping half way",
    "twice": "saying everything twice",
    "one_token": "one token on and on",
}


def win_rate(rows: list[dict[str, Any]], others: list[dict[str, Any]], judge: str) -> float:
    """Share of prompts on which a response has the higher `judge` score than the other one; ties count one half."""
    scores = [(row[judge], other[judge]) for row, other in zip(rows, others, strict=True)]
    return sum((a > b) + (a == b) / 2 for a, b in scores) / len(scores)


def mean_of(rows: list[dict[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
