"""What the options of reward runs promise: weights of rows, shares of votes, preferred responses, several heads."""

import json
import math
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import (
    CPU,
    golden_codec,
    kill_at_step,
    label_rows,
    loss_of_step,
    outcome_digest,
    run_here,
    run_process,
    save_random_policy,
    write_rows,
)

from finegrain_trainer.data import read_labels
from finegrain_trainer.ensemble import head_agreement, head_margins
from finegrain_trainer.export import check_parity, export_onnx, golden_items
from finegrain_trainer.failures import BadSpec
from finegrain_trainer.models import load_policy, load_reward_model, new_reward_model, save_reward_model
from finegrain_trainer.reward import loss_counts, preferred_loss, preferred_rows
from finegrain_trainer.reward_evaluation import LabelData, judge
from finegrain_trainer.row_weights import row_weights
from finegrain_trainer.spec import LocalModel, RewardOptions

LOSSES = ["survival", "bt_hunk", "bt_sum", "seq_edits"]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return load_policy(LocalModel(save_random_policy(tmp_path_factory.mktemp("models") / "policy")), CPU)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Edits and pairs; edits of one length, so that averages over tokens are averages over edits."""
    path = write_rows(tmp_path_factory.mktemp("rows") / "labels.ndjson", label_rows(golden_codec(), 200))
    edits, pairs = read_labels(path, 400)
    size = lambda edit: (len(edit.original.token_ids), len(edit.edited.token_ids))  # noqa: E731
    usual = max(map(size, edits), key=[size(edit) for edit in edits].count)
    return [edit for edit in edits if size(edit) == usual][:4], pairs


def model_of(policy, loss: str, **options):
    model = new_reward_model(policy, loss, RewardOptions(**options), seed=3)
    with torch.no_grad():
        model.score.weight.mul_(30)  # opinions of some strength
    return model


def loss_of(model, edits, weighting: str = "edit") -> torch.Tensor:
    return loss_of_step(model, edits, RewardOptions(), row_weights(edits, weighting, model.heads, seed=0))


# ---- several annotators for one pair


@pytest.mark.parametrize("loss", LOSSES)
def test_edits_of_one_pair_together_weigh_as_much_as_one_edit_of_another(policy, rows, loss):
    a, b, *_ = rows[0]
    model = model_of(policy, loss)
    copies = [replace(a, id=f"copy {number}") for number in range(3)]
    same_pair = [replace(copy, pair="p") for copy in copies]
    expected = loss_of(model, [a, b])
    torch.testing.assert_close(loss_of(model, [*same_pair, b], "pair"), expected, atol=1e-6, rtol=0)
    assert abs(loss_of(model, [*same_pair, b]) - expected) > 1e-3
    torch.testing.assert_close(loss_of(model, [a, b], "pair"), expected, atol=0, rtol=0)


def test_where_editors_of_a_pair_disagree_a_token_has_a_soft_label(policy, rows):
    a, b, *_ = rows[0]
    model = model_of(policy, "survival")
    first, second = (replace(a, pair="p", original=replace(a.original, labels=labels)) for labels in labels_of(a))
    half = [0.5] * len(a.original.labels)
    once = replace(a, pair="p", original=replace(a.original, labels=half))
    torch.testing.assert_close(loss_of(model, [first, second, b], "pair"), loss_of(model, [once, b], "pair"))


def labels_of(edit):
    return edit.original.labels, [1 - label for label in edit.original.labels]


def test_a_row_that_names_no_pair_is_a_pair_of_its_own_and_weights_average_1(rows):
    edits = [replace(edit, pair="p") if index < 3 else edit for index, edit in enumerate(rows[0])]
    assert row_weights(edits, "pair", 1, 0)[:, 0].tolist() == pytest.approx([2 / 3] * 3 + [2])
    assert (row_weights(edits, "edit", 1, 0) == 1).all()


def test_a_preference_is_as_likely_as_the_votes_say(policy, rows):
    pairs = [replace(pair, vote_share=share) for pair, share in zip(rows[1], (1.0, 0.6, 0.2), strict=False)]
    turned = [replace(pair, preferred=pair.other, other=pair.preferred) for pair in pairs]
    model = model_of(policy, "seq_pairs")
    hard, soft = RewardOptions(), RewardOptions(preference_labels="votes")

    def loss(pair, options):
        return loss_of_step(model, [pair], options)

    for pair, other_way in zip(pairs, turned, strict=True):
        expected = pair.vote_share * loss(pair, hard) + (1 - pair.vote_share) * loss(other_way, hard)
        torch.testing.assert_close(loss(pair, soft), expected)
    uncounted = replace(pairs[0], vote_share=None)
    assert torch.equal(loss(uncounted, soft), loss(uncounted, hard))


def test_shares_of_votes_without_any_votes_are_refused(policy, tmp_path):
    labels = write_rows(tmp_path / "labels.ndjson", label_rows(golden_codec(), 8))
    spec = {"base_model": {"path": str(policy.folder)}, "loss": "seq_pairs", "data": {"labels": str(labels)}}
    with pytest.raises(BadSpec, match="no pairs with votes"):
        run_here("reward", {**spec, "hyperparameters": {"preference_labels": "votes"}}, tmp_path)


# ---- preferred responses


def test_nobody_edits_a_token_of_a_preferred_response_away(policy, rows):
    model, pairs = model_of(policy, "survival"), rows[1][:3]
    surprise = []
    for pair in pairs:
        z = model.logits(torch.tensor([pair.prompt_token_ids + pair.preferred.token_ids]))[0, :, 0]
        surprise += [math.log1p(math.exp(v)) for v in z[len(pair.prompt_token_ids) :].tolist()]
    count = loss_counts(model.loss, [], pairs)["preferred"]
    actual = preferred_loss(model, pairs, RewardOptions(), torch.ones(3, 1), count)
    assert actual.item() == pytest.approx(sum(surprise) / len(surprise), abs=1e-5)


@pytest.mark.parametrize("loss", ["bt_hunk", "seq_edits"])
def test_with_other_losses_its_total_is_above_that_of_the_other_response(policy, rows, loss):
    model, pairs = model_of(policy, loss), rows[1][:3]
    expected = []
    for pair in pairs:
        totals = [
            model.response_rewards([pair.prompt_token_ids], [response.token_ids]).sum().item()
            for response in (pair.preferred, pair.other)
        ]
        expected.append(math.log1p(math.exp(totals[1] - totals[0])))
    count = loss_counts(model.loss, [], pairs)["preferred"]
    actual = preferred_loss(model, pairs, RewardOptions(), torch.ones(3, 1), count)
    assert actual.item() == pytest.approx(sum(expected) / 3, abs=1e-4)


def test_a_preferred_response_that_was_edited_itself_is_left_out_where_it_would_have_no_bad_token(rows):
    (edit, *_), pairs = rows
    pair = replace(pairs[0], split="train", preferred=edit.original)
    edited = replace(edit, pair=pair.id)
    assert preferred_rows("survival", LabelData([edited], [pair], {})) == []
    assert preferred_rows("survival", LabelData([replace(edit, pair="other")], [pair], {})) == [pair]
    assert preferred_rows("bt_hunk", LabelData([edited], [pair], {})) == [pair]


def test_preferred_responses_that_are_not_there_are_refused(policy, tmp_path):
    rows = [row for row in label_rows(golden_codec(), 8) if row["type"] == "edit"]
    labels = write_rows(tmp_path / "labels.ndjson", rows)
    spec = {"base_model": {"path": str(policy.folder)}, "data": {"labels": str(labels)}}
    with pytest.raises(BadSpec, match="preferred_responses: labels"):
        run_here("reward", {**spec, "hyperparameters": {"preferred_responses": 1}}, tmp_path)


# ---- heads


def test_each_head_has_its_own_bootstrap_of_the_rows_the_same_each_time(rows):
    edits = [replace(rows[0][0], id=str(number), pair=str(number)) for number in range(500)]
    weights = row_weights(edits, "edit", 3, seed=7)
    assert torch.equal(weights, row_weights(edits, "edit", 3, seed=7))
    assert weights.mean(0).tolist() == pytest.approx([1.0] * 3)
    assert ((weights == 0).float().mean(0) - math.exp(-1)).abs().max() < 0.08
    assert (weights[:, 0] != weights[:, 1]).float().mean() > 0.4


@pytest.mark.parametrize("loss", [*LOSSES, "seq_pairs"])
def test_the_loss_of_several_heads_is_the_mean_of_what_each_alone_has_on_its_rows(policy, rows, loss):
    batch = rows[1][:4] if loss == "seq_pairs" else rows[0]
    model = model_of(policy, loss, heads=3)
    weights = torch.tensor([[2.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 2.0]])
    alone = []
    for head in range(3):
        single = model_of(policy, loss)
        with torch.no_grad():
            single.score.weight.copy_(model.score.weight[head : head + 1])
            single.score.bias.copy_(model.score.bias[head : head + 1])
        alone.append(loss_of_step(single, batch, RewardOptions(), weights[:, head : head + 1]))
    expected = sum(alone) / 3
    torch.testing.assert_close(loss_of_step(model, batch, RewardOptions(), weights), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("loss", ["survival", "bt_hunk"])
@pytest.mark.parametrize("penalty", [0.0, 4.0])
def test_heads_come_back_from_their_folder_and_from_their_graph_as_they_were(policy, tmp_path, loss, penalty):
    from transformers import AutoModelForTokenClassification

    model = model_of(policy, loss, heads=3, uncertainty_penalty=penalty).requires_grad_(False)
    model.score.bias += 3  # so that many rewards are near the clip
    onnx = export_onnx(model, tmp_path / "reward.onnx")
    text = "Dear Anna, this note is about the river."
    items = golden_items(model, policy.codec, [((), "", text)], policy.card.context_length)
    assert np.std(items[0]["rewards"]) > 0.05
    assert check_parity(model, tmp_path / "reward.onnx", items, policy.card.context_length) < 1e-5
    save_reward_model(model, policy, tmp_path, onnx)
    again, *_ = load_reward_model(tmp_path, CPU)
    prompt, response = [40, 41], items[0]["token_ids"]
    rewards = model.response_rewards([prompt], [response])
    assert torch.equal(again.response_rewards([prompt], [response]), rewards)

    ids = torch.tensor([prompt + response])
    z = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()(input_ids=ids).logits[0, 2:].detach().double()
    of_heads = (-torch.log1p(z.exp())).clamp(min=-4) if loss == "survival" else z
    expected = of_heads.mean(-1) - penalty * of_heads.std(-1, correction=0)
    if loss == "survival":
        assert penalty == 0 or (expected < -4.1).any()
        expected = expected.clamp(min=-4)
    torch.testing.assert_close(rewards.double(), expected, atol=1e-5, rtol=0)


def test_where_heads_agree_is_counted_over_their_own_totals(policy, rows):
    model = model_of(policy, "bt_hunk", heads=3)
    with torch.no_grad():  # heads of about one opinion
        model.score.weight[1:] = model.score.weight[0] + 0.3 * model.score.weight[1:]
    pairs = [replace(pair, split="test") for pair in rows[1][:20]]
    judged = judge(model, LabelData([], pairs, {}), "test")
    margins = head_margins(model, judged)
    np.testing.assert_allclose(margins.mean(1), [each.margin for each in judged], atol=1e-4)
    alike = (margins > 0).all(1) | (margins < 0).all(1)
    assert 0 < alike.sum() < 20
    said = head_agreement(model, judged)
    assert said["pairs"]["agree"]["value"] == pytest.approx(alike.mean())
    right = np.array([each.margin > 0 for each in judged])
    assert said["pairs"]["accuracy_where_they_agree"]["value"] == pytest.approx(right[alike].mean())
    assert said["pairs"]["accuracy_where_they_do_not"]["n"] == (~alike).sum()
    assert said["edits"]["agree"]["value"] is None


# ---- whole runs

ENSEMBLE = {"heads": 3, "uncertainty_penalty": 0.5, "preferred_responses": 0.5, "pair_weighting": "pair"}


def test_killed_and_resumed_with_heads_and_preferred_responses_it_ends_the_same_bit_for_bit(policy, tmp_path):
    rows = label_rows(golden_codec(), 48)
    for row in rows:  # two edits of each pair
        if row["type"] == "edit":
            row["pair"] = f"p{int(row['id'][1:]) // 2 * 2}"
        else:
            row["votes"] = {"preferred": 3, "other": 1, "tie": 1}
    spec = {
        "base_model": {"path": str(policy.folder)},
        "data": {"labels": str(write_rows(tmp_path / "labels.ndjson", rows))},
        "hyperparameters": {"epochs": 3, "batch_size": 6, "checkpoint_every": 3, **ENSEMBLE},
    }
    code, lines = run_process("reward", spec, tmp_path / "whole")
    assert code == 0
    code, _ = run_process("reward", spec, tmp_path / "killed", kill_at_step(7))
    assert code == -signal.SIGKILL
    assert run_process("reward", spec, tmp_path / "killed")[0] == 0
    assert outcome_digest(tmp_path / "killed") == outcome_digest(tmp_path / "whole")

    report = json.loads((tmp_path / "whole/output/model/report.json").read_text())
    assert report["breakdown"]["test"]["heads"]["count"] == 3
    assert report["training"]["preferred_responses"] > 20
    assert report["breakdown"]["test"]["votes"]["possible"] == pytest.approx(0.7)
    card = json.loads((tmp_path / "whole/output/model/finegrain.json").read_text())
    assert card["reward"] == {"loss": "survival", "clip": -4.0, "heads": 3, "uncertainty_penalty": 0.5}
    assert json.loads((tmp_path / "whole/output/model/config.json").read_text())["id2label"].keys() == {"0", "1", "2"}
    assert lines[-1]["result"]["onnx_difference"] < 1e-5


def test_several_edits_of_a_pair_change_what_is_learned_where_they_share_a_weight(policy, tmp_path):
    rows = label_rows(golden_codec(), 24)
    for row in rows:
        if row["type"] == "edit" and int(row["id"][1:]) < 12:
            row["pair"] = "one"
    spec = {
        "base_model": {"path": str(policy.folder)},
        "data": {"labels": str(write_rows(tmp_path / "labels.ndjson", rows))},
    }
    weights = {}
    for weighting in ("edit", "pair"):
        options = {"epochs": 1, "batch_size": 6, "pair_weighting": weighting}
        run_here("reward", {**spec, "hyperparameters": options}, tmp_path / weighting)
        weights[weighting] = (tmp_path / weighting / "output/model/model.safetensors").read_bytes()
    assert weights["edit"] != weights["pair"]
