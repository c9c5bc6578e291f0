"""Rewards carried over to another tokenizer: nothing lost, nothing invented, each token paid for its own text."""

import json
import random

import pytest
import torch
from support import CPU, EOS, GOLDEN, as_prompt, golden_codec, run_process, save_random_policy, world_row, write_rows

from finegrain_trainer.failures import BadSpec
from finegrain_trainer.models import load_policy, load_reward_model, new_reward_model, save_reward_model
from finegrain_trainer.projection import ProjectedRewards, project, tile
from finegrain_trainer.prompt_format import TextCodec, load_tokenizer
from finegrain_trainer.spec import LocalModel, RewardOptions
from finegrain_trainer.tokenizer import chat_format, train_tokenizer

TEXTS = ["", "Dear Anna, thank you.", " naïve 👩‍👩‍👧 日本", "a\r\n  b\tc", "👍🏽👍🏽 end ", "e\u0301\ufb01 Dora"]


@pytest.fixture(scope="module")
def other_codec(tmp_path_factory) -> TextCodec:
    """A byte-level BPE with other merges than the golden one's."""
    path = tmp_path_factory.mktemp("other") / "tokenizer.json"
    train_tokenizer(["Dear Anna, this note is about the harbour.", "Thank you 👍."] * 5, 300).save(str(path))
    return TextCodec(load_tokenizer(path), chat_format(), EOS)


def tiles_of(codec: TextCodec, text: str) -> list[tuple[int, int]]:
    return tile(codec.encode_with_offsets(text)[1], len(text))


def by_characters(rewards, spans, onto):
    """The slow oracle: every character carries an equal share of its token's reward, and pays its owner."""
    result = [0.0] * len(onto)
    for reward, (start, end) in zip(rewards, spans, strict=True):
        for place in range(start, end):
            owner = next(i for i, (first, last) in enumerate(onto) if first <= place < last)
            result[owner] += reward / (end - start)
        if start == end:
            owners = [i for i, (first, last) in enumerate(onto) if first <= start < last]
            result[owners[0] if owners else -1] += reward
    return result


@pytest.mark.parametrize("text", TEXTS[1:])
def test_projected_rewards_are_those_of_the_characters_and_keep_their_sum(text, other_codec):
    rng = random.Random(text)
    spans, onto = tiles_of(other_codec, text), tiles_of(golden_codec(), text)
    rewards = [rng.gauss(0, 1) for _ in spans]
    projected = project(rewards, spans, onto)
    assert projected == pytest.approx(by_characters(rewards, spans, onto), abs=1e-9)
    assert sum(projected) == pytest.approx(sum(rewards), abs=1e-6)
    assert project(rewards, spans, spans) == pytest.approx(by_characters(rewards, spans, spans), abs=1e-12)


def test_a_token_is_paid_for_its_own_text_alone(other_codec):
    text = "Dear Anna, thank you 👍."
    spans, onto = tiles_of(other_codec, text), tiles_of(golden_codec(), text)
    bad = text.index("thank"), text.index("thank") + len("thank")
    rewards = [-1.0 if start < bad[1] and end > bad[0] else 0.0 for start, end in spans]
    blamed = [onto[i] for i, reward in enumerate(project(rewards, spans, onto)) if reward < 0]
    assert blamed
    assert all(start < bad[1] + 1 and end > bad[0] - 1 for start, end in blamed)


@pytest.mark.parametrize("text", TEXTS)
def test_what_tokens_add_is_the_text_and_tiles_it_as_their_offsets_do(text):
    codec = golden_codec()
    ids = codec.encode(text)
    texts = codec.token_texts(ids)
    assert "".join(texts) == text
    ends = [sum(map(len, texts[: i + 1])) for i in range(len(texts))]
    assert ends == [end for _, end in tiles_of(codec, text)]


def test_a_character_that_is_cut_off_belongs_to_the_last_token_and_control_tokens_have_no_text():
    codec = golden_codec()
    cut = codec.encode("ok 👍")[:-1]
    texts = codec.token_texts(cut)
    assert "".join(texts) == codec.decode(cut) == "ok \ufffd"
    assert texts[-1] == "\ufffd"
    assert codec.token_texts([EOS, *codec.encode("Hi"), EOS]) == ["", "H", "i", ""]
    assert codec.token_texts([]) == []


def test_tiles_are_those_of_the_api():
    for item in json.loads((GOLDEN / "token_offsets.json").read_text())["items"]:
        assert [list(span) for span in tile(item["offsets"], len(item["text"]))] == item["tiles"], item["name"]


# ---- with models


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, other_codec):
    """Random reward models with the other tokenizer, one of tokens and one of sequences."""
    folder = tmp_path_factory.mktemp("foreign")
    base = load_policy(LocalModel(save_random_policy(folder / "base", seed=5)), CPU)
    other = TextCodec(other_codec._tokenizer, base.card.prompt_format, EOS)
    folders = {}
    for loss in ("bt_sum", "seq_edits"):
        folders[loss] = folder / loss
        folders[loss].mkdir()
        model = new_reward_model(base, loss, RewardOptions(), seed=1)
        with torch.no_grad():
            model.score.weight.mul_(50)
        save_reward_model(model, base, folders[loss], None)
        other._tokenizer.save(str(folders[loss] / "tokenizer.json"))
    return folders


@pytest.mark.parametrize("loss", ["bt_sum", "seq_edits"])
def test_a_policy_is_paid_what_the_model_says_of_its_text(loss, foreign):
    model, card, codec = load_reward_model(foreign[loss], CPU)
    policy = golden_codec()
    prompt = as_prompt("Write a note to Anna.")
    ids = policy.prompt_ids(prompt)
    rewards = ProjectedRewards(model, codec, card.context_length, policy, lambda _: prompt)
    responses = [policy.response_ids(text) for text in TEXTS] + [policy.encode(text) for text in TEXTS[1:]]
    responses += [policy.encode("ok 👍")[:-1], [EOS, EOS]]  # half a character; control tokens only
    packed = rewards.response_rewards([ids] * len(responses), responses)
    for response, row in zip(responses, packed.split([len(r) for r in responses]), strict=True):
        ended = response[-1] == EOS
        text = policy.decode(response)
        own = codec.response_ids(text) if ended or not text else codec.encode(text)
        expected = model.response_rewards([codec.prompt_ids(prompt)], [own]).sum().item()
        assert row.sum().item() == pytest.approx(expected, abs=1e-5), text
        if loss == "seq_edits":
            assert row[:-1].abs().sum() == 0


def test_ppo_learns_from_a_reward_model_with_another_tokenizer(tuned_policy_folder, foreign, tmp_path):
    rng = random.Random(9)
    rows = [{"id": f"q{i}", "prompt": world_row(rng)[0]} for i in range(20)]
    spec = {
        "policy": {"path": str(tuned_policy_folder)},
        "reward_model": {"path": str(foreign["bt_sum"])},
        "data": {"prompts": str(write_rows(tmp_path / "prompts.ndjson", rows))},
        "evaluation": {
            "prompts": str(write_rows(tmp_path / "unseen.ndjson", [{"id": "u", "prompt": "Write to Bob."}])),
            "judge": {"path": str(foreign["seq_edits"])},
        },
        "hyperparameters": {
            "steps": 10, "batch_size": 24, "max_new_tokens": 24, "scale_samples": 48, "learning_rate": 3e-3,
            "beta": 0.01,
        },
    }  # fmt: skip
    code, lines = run_process("ppo", spec, tmp_path)
    metrics = [line["values"] for line in lines if line["type"] == "metrics" and "reward_sum" in line["values"]]
    assert code == 0
    assert sum(m["reward_per_token"] for m in metrics[-3:]) > sum(m["reward_per_token"] for m in metrics[:3])
    evaluated = [json.loads(line) for line in (tmp_path / "output/evaluations.ndjson").read_text().splitlines()]
    assert all(isinstance(row["judge_reward"], float) for row in evaluated)


def test_a_response_that_the_reward_model_cannot_read_in_one_is_a_clear_error(foreign):
    model, card, codec = load_reward_model(foreign["bt_sum"], CPU)
    policy, prompt = golden_codec(), as_prompt("Hi")
    rewards = ProjectedRewards(model, codec, card.context_length, policy, lambda _: prompt)
    with pytest.raises(BadSpec, match=r"has 1\d\d tokens .* lower hyperparameters.max_new_tokens"):
        rewards.response_rewards([policy.prompt_ids(prompt)], [policy.response_ids("Ж" * 50)])
