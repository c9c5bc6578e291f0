"""The mathematics of reward models and of fine-grained PPO: tensors in, tensors out, no state (ALGORITHM 2 and 3).

Shapes are [batch, time] over response tokens; `mask` is True on real tokens, and what lies outside it never counts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor, weights: Tensor | None = None, count: int | None = None) -> Tensor:
    """Mean of `values` [batch, time] over the tokens of `mask`: a global token count, not a mean of means.

    `weights` [batch]: of rows, 1 on average. `count`, here and below: of how many tokens (or pairs) in all these are
    some; the result is then their share of the mean over all, and the shares of all micro batches add up to it.
    """
    return (_weighted(values, weights) * mask).sum() / (mask.sum() if count is None else count)


def mean(values: Tensor, count: int | None = None) -> Tensor:
    """Of packed `values` [n]."""
    return values.sum() / (len(values) if count is None else count)


def survival_loss(
    logits: Tensor,
    labels: Tensor,
    original: Tensor,
    edited: Tensor,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
    counts: tuple[int | None, int | None] = (None, None),
) -> Tensor:
    """Binary cross-entropy of "an annotator edits this token away".

    `logits`, `labels` [batch, time]; `original`, `edited`: masks [batch, time] of the tokens of y^l and of y^e.
    Labels are 1 on B_h of y^l; every token of y^e is a 0. Each version is averaged over all its tokens in the batch.
    `smoothing`: the share of labels that are taken to be wrong. `weights` [batch]: of rows, 1 on average.
    `counts`: tokens of all y^l, of all y^e.
    """
    smoothed = labels * (1 - smoothing) + (1 - labels) * smoothing
    on_original = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
    of_edited = kept_loss(logits, edited, smoothing, weights, counts[1])
    return masked_mean(on_original, original, weights, counts[0]) + of_edited


def kept_loss(
    logits: Tensor, mask: Tensor, smoothing: float = 0.0, weights: Tensor | None = None, count: int | None = None
) -> Tensor:
    """The same of tokens `mask` [batch, time] that nobody edits away."""
    return masked_mean(F.softplus(logits) - smoothing * logits, mask, weights, count)


def survival_reward(logits: Tensor, clip: float) -> Tensor:
    """r_t = log(1 - p_t) in [clip, 0]: summed, the log-probability that a response needs no edit."""
    return F.logsigmoid(-logits).clamp(min=clip)


def ensemble_reward(rewards: Tensor, penalty: float) -> Tensor:
    """Mean over the heads of `rewards` [..., heads], less `penalty` times their standard deviation."""
    mean = rewards.mean(-1)
    if penalty == 0:
        return mean
    return mean - penalty * ((rewards - mean.unsqueeze(-1)) ** 2).mean(-1).sqrt()


def preference_loss(
    better: Tensor,
    worse: Tensor,
    smoothing: float | Tensor = 0.0,
    weights: Tensor | None = None,
    count: int | None = None,
) -> Tensor:
    """Bradley-Terry: -log sigmoid(better - worse) of rewards [n], averaged (paper, equation 1).

    `smoothing`: the share of preferences that are taken to be the wrong way round, of all or of each [n]. `weights`
    [n]: 1 on average.
    """
    return mean(_weighted(_bradley_terry(better - worse, smoothing), weights), count)


def _weighted(values: Tensor, weights: Tensor | None) -> Tensor:
    """`values` [rows, ...] times the weights of their rows."""
    return values if weights is None else values * weights.view(-1, *[1] * (values.dim() - 1))


def _bradley_terry(margins: Tensor, smoothing: float | Tensor) -> Tensor:
    """Of each margin, where a share of `smoothing` of the preferences is taken to be the wrong way round."""
    return -F.logsigmoid(margins) + smoothing * margins


def dpo_margins(log_probs: Tensor, reference: Tensor, beta: float) -> Tensor:
    """By how much the implicit reward beta * log(pi / pi_ref) of the chosen response is above that of the rejected one.

    `log_probs`, `reference` [2, n]: of whole responses, the chosen ones and the rejected ones. Returns [n].
    """
    chosen, rejected = beta * (log_probs - reference)
    return chosen - rejected


def dpo_loss(margins: Tensor, smoothing: float = 0.0, count: int | None = None) -> Tensor:
    """-log sigmoid of the margins [n], averaged (Rafailov 2023, equation 7; `smoothing`: conservative DPO)."""
    return mean(_bradley_terry(margins, smoothing), count)


def hunk_preference_loss(
    rewards_edited: Tensor,
    rewards_original: Tensor,
    hunks_edited: Tensor,
    hunks_original: Tensor,
    smoothing: float = 0.0,
    weights: Tensor | None = None,
    count: int | None = None,
) -> Tensor:
    """Bradley-Terry for each hunk on the sums of its labelled tokens; the mean over a pair's hunks, then over pairs.

    `rewards_*` [pairs, time]; `hunks_*` [pairs, time] number the labelled tokens of each hunk from 1, 0 elsewhere. A
    side without tokens sums to 0. Pairs without hunks do not count. `weights` [pairs]: 1 on average.
    """
    most = int(torch.maximum(hunks_edited.max(), hunks_original.max()))

    def sums(values: Tensor, hunks: Tensor) -> Tensor:
        return values.new_zeros(len(values), most + 1).scatter_add(1, hunks, values)[:, 1:]

    better, worse = sums(rewards_edited, hunks_edited), sums(rewards_original, hunks_original)
    ones = torch.ones_like(rewards_edited), torch.ones_like(rewards_original)
    exists = (sums(ones[0], hunks_edited) + sums(ones[1], hunks_original)) > 0
    per_pair = (_bradley_terry(better - worse, smoothing) * exists).sum(1) / exists.sum(1).clamp(min=1)
    return _weighted(per_pair, weights).sum() / max(1, int(exists.any(1).sum()) if count is None else count)


def last_places(mask: Tensor) -> Tensor:
    """The mask [batch, time] of the last True of each row of `mask`, wherever it stands."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return mask & (places == (mask * places).amax(1, keepdim=True))


def place_rewards(rewards: Tensor, mask: Tensor, placement: str) -> Tensor:
    """The same total for each row of `rewards` [batch, time], paid elsewhere on the tokens of `mask`.

    `token`: where it is. `end`: all of it on the last token. `spread`: evenly on all tokens.
    """
    if placement == "token":
        return rewards
    total = (rewards * mask).sum(1, keepdim=True)
    return total * last_places(mask) if placement == "end" else total / mask.sum(1, keepdim=True).clamp(min=1) * mask


def token_zero(sums: Tensor, counts: Tensor, mu: str) -> Tensor:
    """What is taken off the reward of a token: of rows whose `counts` [rows] tokens were paid `sums` [rows] in all.

    `batch`: the mean reward of a token, so that tokens are paid for being better than most. `slope`: what a response
    with one token more has more, by least squares, so that length by itself pays nothing; 0 where all are as long.
    `zero`: nothing.
    """
    if mu == "zero":
        return sums.new_zeros(())
    if mu == "batch":
        return sums.sum() / counts.sum()
    around = counts - counts.mean()
    spread = (around**2).sum()
    return (around * sums).sum() / spread if spread > 0 else spread


def shaped_rewards(
    rewards: Tensor,
    paid: Tensor,
    kl: Tensor,
    mask: Tensor,
    truncated: Tensor,
    *,
    mu: float,
    scale: float,
    beta: float,
    truncation_cost: float,
    placement: str,
) -> Tensor:
    """What PPO maximises at each token: (r - mu) / s - beta * kl, less `truncation_cost` at the end of a cut response.

    `rewards`, `kl`, `mask` [batch, time]; `paid` [batch, time]: where the reward model pays, all tokens or the last;
    `truncated` [batch].
    """
    centred = (rewards - mu) / scale * paid
    shaped = place_rewards(centred, mask, placement) - beta * kl * mask
    return shaped - truncation_cost * truncated[:, None] * last_places(mask)


def generalised_advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """GAE [batch, time]; `values` [batch, time] are read before each token, and nothing follows the last one."""
    advantages = torch.zeros_like(rewards)
    running = rewards.new_zeros(len(rewards))
    values = values * mask
    for t in reversed(range(rewards.shape[1])):
        next_value = values[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = (delta + gamma * lam * running) * mask[:, t]
        advantages[:, t] = running
    return advantages


def leave_one_out_advantages(rewards: Tensor, mask: Tensor, samples: int) -> Tensor:
    """A response's total less the mean total of the others to its prompt, at each of its tokens (RLOO, Ahmadian 2024).

    `rewards`, `mask` [batch, time]; responses to one prompt, `samples` of them, lie one after the other.
    """
    totals = (rewards * mask).sum(1).view(-1, samples)
    others = (totals.sum(1, keepdim=True) - totals) / (samples - 1)
    return (totals - others).view(-1, 1) * mask


def adapted_beta(beta: float, kl: float, target: float, responses: int, horizon: int) -> float:
    """The next price of KL: it rises while `kl`, in nats a response, is above `target` (Ziegler 2019, section 2.2)."""
    error = min(0.2, max(-0.2, kl / target - 1))
    return beta * (1 + error * responses / horizon)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [batch, time] shifted to mean 0 and scaled to variance 1 over the tokens of `mask`."""
    centre = masked_mean(values, mask)
    variance = masked_mean((values - centre) ** 2, mask)
    return (values - centre) * torch.rsqrt(variance + 1e-8) * mask


def policy_loss(log_ratio: Tensor, advantages: Tensor, clip: float, count: int | None = None) -> Tensor:
    """PPO's clipped surrogate, to be minimised; packed tokens [n]."""
    ratio = log_ratio.exp()
    return mean(torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)), count)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float, count: int | None = None) -> Tensor:
    """Half the squared error, with values that moved over `clip` from the rollout's held back; packed tokens [n]."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), count)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var[returns - values] / Var[returns] over the tokens of `mask`: 0 = the critic knows only the mean."""

    def variance(x: Tensor) -> Tensor:
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    return 1 - variance(returns - values) / variance(returns).clamp(min=1e-8)
