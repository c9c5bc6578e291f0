"""Every formula against a slow, obvious version of itself."""

import math

import pytest
import torch

from finegrain_trainer import rl_math


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([40, 17, 1])
    mask = torch.arange(40)[None] < lengths[:, None]
    rewards, values = (torch.randn(3, 40, generator=generator) for _ in range(2))
    return rewards, values, mask, lengths


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (1.0, 0.0)])
def test_advantages_are_the_brute_force_sum_over_future_deltas(batch, gamma, lam):
    rewards, values, mask, lengths = batch
    expected = torch.zeros_like(rewards)
    for row in range(3):
        n = int(lengths[row])
        for t in range(n):
            for k in range(t, n):
                following = values[row, k + 1] if k + 1 < n else 0.0
                delta = rewards[row, k] + gamma * following - values[row, k]
                expected[row, t] += (gamma * lam) ** (k - t) * delta
    actual = rl_math.generalised_advantages(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(actual, expected, atol=2e-6, rtol=1e-5)


def test_with_lambda_1_an_advantage_is_the_return_less_the_value(batch):
    rewards, values, mask, _ = batch
    actual = rl_math.generalised_advantages(rewards * mask, values, mask, 1.0, 1.0)
    to_go = (rewards * mask).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(actual, (to_go - values) * mask, atol=1e-5, rtol=1e-5)


def test_what_lies_outside_the_mask_never_counts(batch):
    rewards, values, mask, _ = batch
    poisoned = torch.where(mask, values, torch.full_like(values, 1e9))
    advantages = rl_math.generalised_advantages(rewards, values, mask, 1.0, 0.95)
    assert torch.equal(advantages, rl_math.generalised_advantages(rewards * mask, poisoned, mask, 1.0, 0.95))
    assert torch.equal(rl_math.whiten(advantages, mask)[~mask], torch.zeros(int((~mask).sum())))


def test_leave_one_out_compares_a_response_with_the_others_to_its_prompt():
    generator = torch.Generator().manual_seed(5)
    rewards = torch.randn(6, 7, generator=generator)
    mask = torch.arange(7)[None] < torch.tensor([[3], [7], [5], [1], [2], [7]])
    totals = [rewards[row][mask[row]].sum().item() for row in range(6)]
    advantages = rl_math.leave_one_out_advantages(rewards, mask, 3)
    for row in range(6):
        others = [totals[other] for other in range(row // 3 * 3, row // 3 * 3 + 3) if other != row]
        expected = totals[row] - sum(others) / 2
        assert advantages[row][mask[row]].tolist() == pytest.approx([expected] * int(mask[row].sum()), abs=1e-5)
        assert (advantages[row][~mask[row]] == 0).all()


def test_the_price_of_kl_follows_its_target_and_never_jumps():
    assert rl_math.adapted_beta(0.1, kl=4.0, target=4.0, responses=64, horizon=200) == pytest.approx(0.1)
    assert rl_math.adapted_beta(0.1, kl=4.4, target=4.0, responses=50, horizon=200) == pytest.approx(0.1 * 1.025)
    assert rl_math.adapted_beta(0.1, kl=90.0, target=4.0, responses=200, horizon=200) == pytest.approx(0.12)
    assert rl_math.adapted_beta(0.1, kl=-1.0, target=4.0, responses=200, horizon=200) == pytest.approx(0.08)


def test_whitened_tokens_have_mean_0_and_variance_1_over_the_mask(batch):
    rewards, _, mask, _ = batch
    tokens = rl_math.whiten(rewards * 3 + 7, mask)[mask]
    assert abs(tokens.mean().item()) < 1e-6
    assert abs(tokens.var(correction=0).item() - 1) < 1e-5


def test_survival_loss_averages_each_version_over_all_its_tokens():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 6, generator=generator)
    original = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0], [0] * 6, [0] * 6]).bool()
    edited = torch.tensor([[0] * 6, [0] * 6, [0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0]]).bool()
    labels = torch.zeros(4, 6)
    labels[0, 2] = labels[1, 2] = 1.0
    on_original, on_edited = [], []
    for i in range(4):
        for t in range(6):
            p = 1 / (1 + math.exp(-logits[i, t].item()))
            if original[i, t]:
                on_original.append(-math.log(p if labels[i, t] else 1 - p))
            if edited[i, t]:
                on_edited.append(-math.log(1 - p))
    expected = sum(on_original) / 5 + sum(on_edited) / 7
    assert rl_math.survival_loss(logits, labels, original, edited).item() == pytest.approx(expected, abs=1e-6)


def test_smoothing_takes_a_share_of_the_labels_to_be_wrong():
    generator = torch.Generator().manual_seed(4)
    logits, better, worse = torch.randn(3, 2, 8, generator=generator)
    labels = (torch.rand(2, 8, generator=generator) < 0.3).float()
    original = torch.tensor([[True] * 8, [False] * 8])
    mixed = 0.9 * rl_math.survival_loss(logits, labels, original, ~original)
    flipped = rl_math.survival_loss(logits, 1 - labels, original, original) - rl_math.masked_mean(
        torch.nn.functional.softplus(logits), original
    )
    flipped += rl_math.masked_mean(torch.nn.functional.softplus(-logits), ~original)
    smoothed = rl_math.survival_loss(logits, labels, original, ~original, 0.1)
    torch.testing.assert_close(smoothed, mixed + 0.1 * flipped)
    expected = 0.9 * rl_math.preference_loss(better, worse) + 0.1 * rl_math.preference_loss(worse, better)
    torch.testing.assert_close(rl_math.preference_loss(better, worse, 0.1), expected)
    hunks = torch.ones(2, 8, dtype=torch.long)
    expected = 0.9 * rl_math.hunk_preference_loss(better, worse, hunks, hunks)
    expected += 0.1 * rl_math.hunk_preference_loss(worse, better, hunks, hunks)
    torch.testing.assert_close(rl_math.hunk_preference_loss(better, worse, hunks, hunks, 0.1), expected)


def test_dpo_is_the_log_odds_of_the_implicit_rewards():
    generator = torch.Generator().manual_seed(6)
    log_probs, reference = -torch.rand(2, 2, 5, generator=generator) * 20
    margins = rl_math.dpo_margins(log_probs, reference, beta=0.3)
    for smoothing in (0.0, 0.2):
        expected = 0.0
        for i in range(5):
            ratios = [math.exp(log_probs[side, i].item() - reference[side, i].item()) for side in (0, 1)]
            right = ratios[0] ** 0.3 / (ratios[0] ** 0.3 + ratios[1] ** 0.3)
            expected -= ((1 - smoothing) * math.log(right) + smoothing * math.log(1 - right)) / 5
        assert rl_math.dpo_loss(margins, smoothing).item() == pytest.approx(expected, abs=1e-5)


def test_a_weight_counts_a_row_so_often_and_weights_of_1_change_nothing():
    generator = torch.Generator().manual_seed(6)
    logits, better, worse = torch.randn(3, 4, 6, generator=generator)
    labels = (torch.rand(4, 6, generator=generator) < 0.3).float()
    original = torch.tensor([[True] * 6, [True] * 6, [False] * 6, [False] * 6])
    hunks = torch.randint(0, 3, (4, 6), generator=generator)
    hunks[:, 0] = 1
    losses = [
        lambda weights, rows: rl_math.survival_loss(
            logits[rows], labels[rows], original[rows], ~original[rows], 0.1, weights
        ),
        lambda weights, rows: rl_math.preference_loss(better[rows, 0], worse[rows, 0], 0.1, weights),
        lambda weights, rows: rl_math.hunk_preference_loss(
            better[rows], worse[rows], hunks[rows], hunks[rows], 0.1, weights
        ),
    ]
    for loss in losses:
        plain = loss(None, [0, 1, 2, 3])
        assert torch.equal(loss(torch.ones(4), [0, 1, 2, 3]), plain)
        # rows 0 and 2 twice, 1 and 3 once: of each six, four and two
        weighted = loss(torch.tensor([4 / 3, 2 / 3, 4 / 3, 2 / 3]), [0, 1, 2, 3])
        torch.testing.assert_close(weighted, loss(None, [0, 0, 1, 2, 2, 3]))
        assert (weighted - plain).abs() > 1e-3


def test_an_ensemble_pays_the_mean_of_its_heads_less_what_they_disagree():
    rewards = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(rl_math.ensemble_reward(rewards, 0.0), rewards.mean(-1))
    expected = rewards.mean(-1) - 0.7 * rewards.std(-1, correction=0)
    torch.testing.assert_close(rl_math.ensemble_reward(rewards, 0.7), expected)
    alike = torch.randn(3, 5, 1).expand(3, 5, 4)
    torch.testing.assert_close(rl_math.ensemble_reward(alike, 0.7), alike[..., 0])


def test_survival_rewards_sum_to_the_log_probability_of_no_edit_and_are_clipped():
    logits = torch.tensor([-3.0, 0.0, 2.0, 50.0])
    rewards = rl_math.survival_reward(logits, clip=-4.0)
    assert rewards[:3].sum().item() == pytest.approx(math.log(math.prod(1 - torch.sigmoid(logits[:3]).numpy())))
    assert rewards[3].item() == -4.0
    assert (rewards <= 0).all()


def shape(rewards, kl, mask, truncated, paid=None, placement="token"):
    options = {"mu": 0.3, "scale": 2.0, "beta": 0.1, "truncation_cost": 1.5, "placement": placement}
    return rl_math.shaped_rewards(rewards, mask if paid is None else paid, kl, mask, truncated, **options)


def test_shaped_rewards_price_kl_and_charge_truncation_on_the_last_real_token(batch):
    rewards, kl, mask, lengths = batch
    truncated = torch.tensor([True, False, True])
    shaped = shape(rewards, kl, mask, truncated)
    for row in range(3):
        for t in range(40):
            expected = 0.0
            if t < lengths[row]:
                expected = (rewards[row, t].item() - 0.3) / 2.0 - 0.1 * kl[row, t].item()
            if t == lengths[row] - 1 and truncated[row]:
                expected -= 1.5
            assert shaped[row, t].item() == pytest.approx(expected, abs=1e-6)


def test_a_sequence_reward_lands_on_the_last_real_token_less_one_mu(batch):
    rewards, _, mask, lengths = batch
    shaped = shape(rewards, torch.zeros_like(rewards), mask, torch.zeros(3).bool(), paid=rl_math.last_places(mask))
    for row in range(3):
        last = int(lengths[row]) - 1
        assert shaped[row, last].item() == pytest.approx((rewards[row, last].item() - 0.3) / 2.0, abs=1e-6)
        assert shaped[row].count_nonzero() == 1


def test_the_zero_of_token_rewards_is_their_mean_or_what_a_token_more_brings_or_nothing():
    counts = torch.tensor([10.0, 20.0, 30.0, 40.0])
    sums = -1.5 - 0.25 * counts  # each response pays 1.5, and each token .25
    assert rl_math.token_zero(sums, counts, "batch").item() == pytest.approx(-(4 * 1.5 + 25) / 100)
    assert rl_math.token_zero(sums, counts, "slope").item() == pytest.approx(-0.25)
    assert rl_math.token_zero(sums, counts, "zero").item() == 0
    # less the slope, the total of a response says nothing of its length, whatever else there is to it
    sums = torch.tensor([-4.0, -9.0, -3.0, -8.0])
    left = sums - rl_math.token_zero(sums, counts, "slope") * counts
    assert torch.corrcoef(torch.stack([left, counts]))[0, 1].item() == pytest.approx(0, abs=1e-6)
    assert rl_math.token_zero(sums, torch.ones(4), "slope").item() == 0, "rewards of whole responses have no slope"


@pytest.mark.parametrize("placement", ["token", "end", "spread"])
def test_wherever_a_reward_is_paid_its_total_is_the_same(batch, placement):
    rewards, _, mask, lengths = batch
    placed = rl_math.place_rewards(rewards * mask, mask, placement)
    torch.testing.assert_close(placed.sum(1), (rewards * mask).sum(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(placed[~mask], torch.zeros(int((~mask).sum())))
    paid = placed.ne(0).sum(1)
    assert paid.tolist() == ([1, 1, 1] if placement == "end" else lengths.tolist())
    if placement == "spread":
        assert placed[0][mask[0]].unique().numel() == 1


def test_hunk_preferences_average_over_the_hunks_of_a_pair_and_then_over_pairs():
    generator = torch.Generator().manual_seed(2)
    edited, original = torch.randn(3, 5, generator=generator), torch.randn(3, 5, generator=generator)
    hunks_edited = torch.tensor([[0, 1, 1, 0, 2], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    hunks_original = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]])  # the last pair has no hunk

    def term(better: float, worse: float) -> float:
        return math.log(1 + math.exp(worse - better))

    first = [
        term(edited[0, 1].item() + edited[0, 2].item(), original[0, 0].item()),
        term(edited[0, 4].item(), 0.0),
    ]
    second = term(0.0, original[1, 1].item() + original[1, 2].item())
    actual = rl_math.hunk_preference_loss(edited, original, hunks_edited, hunks_original)
    assert actual.item() == pytest.approx((sum(first) / 2 + second) / 2, abs=1e-6)


def test_policy_loss_is_the_pessimistic_surrogate():
    log_ratio = torch.tensor([0.0, 0.5, -0.5, 0.5, -0.5])
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0])
    # inside the clip; gain held at 1.2; loss of a good token counts in full; of a bad one likewise; gain held at 0.8
    terms = [1.0, 1.2, math.exp(-0.5), -math.exp(0.5), -0.8]
    assert rl_math.policy_loss(log_ratio, advantages, 0.2).item() == pytest.approx(-sum(terms) / 5)


def test_value_loss_never_rewards_a_move_beyond_the_clip():
    values = torch.tensor([1.0], requires_grad=True)
    loss = rl_math.value_loss(values, torch.tensor([0.0]), torch.tensor([2.0]), clip=0.2)
    assert loss.item() == pytest.approx(0.5 * 1.8**2)
    loss.backward()
    assert values.grad.item() == 0.0


def test_explained_variance_is_1_for_a_perfect_critic_and_0_for_a_constant_one(batch):
    returns, _, mask, _ = batch
    assert rl_math.explained_variance(returns, returns, mask).item() == pytest.approx(1.0)
    assert rl_math.explained_variance(torch.full_like(returns, 5.0), returns, mask).item() == pytest.approx(0, abs=1e-5)
