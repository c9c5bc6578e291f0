"""Model folders, log-probabilities and token rewards: what is loaded, and what padding may never change."""

import json
import shutil
from fnmatch import fnmatch

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from support import ARCHITECTURES, CPU, EOS, golden_codec, random_network, save_random_policy

from finegrain_trainer import models
from finegrain_trainer.batching import collate
from finegrain_trainer.failures import BadSpec
from finegrain_trainer.models import (
    RewardModel,
    load_policy,
    load_reward_model,
    packed_log_probs,
    response_log_probs,
    save_reward_model,
)
from finegrain_trainer.spec import HubModel, LocalModel

PROMPTS = [[1, 4, 50, 60, 70, 5], [1, 4, 5], [1, 4, 90, 91, 92, 93, 94, 95, 96, 97, 5]]
RESPONSES = [[40, 41, EOS], [50, 51, 52, 53, 54, 55, 56, EOS], [60]]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probs_are_those_of_the_model_alone_and_unpadded(architecture):
    network = random_network(architecture)
    with torch.no_grad():
        packed = response_log_probs(network, collate(PROMPTS, RESPONSES, CPU), temperature=0.8)
        expected = []
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            logits = network(input_ids=torch.tensor([prompt + response])).logits[0] / 0.8
            for t, token in enumerate(response):
                expected.append(F.log_softmax(logits[len(prompt) + t - 1], dim=-1)[token])
    torch.testing.assert_close(packed, torch.stack(expected), atol=4e-6, rtol=0)


def test_logits_taken_a_few_at_a_time_give_the_same_values_and_gradients(monkeypatch):
    network = random_network()
    hidden = torch.randn(17, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.arange(17)
    whole = packed_log_probs(network, hidden, targets)
    (expected,) = torch.autograd.grad(whole.sum(), hidden)
    monkeypatch.setattr(models, "LOGITS_AT_A_TIME", 5 * 400)
    pieces = packed_log_probs(network, hidden, targets)
    (actual,) = torch.autograd.grad(pieces.sum(), hidden)
    torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_an_architecture_with_unknown_logit_treatment_is_refused(tmp_path, monkeypatch):
    folder = save_random_policy(tmp_path / "m", "cohere")
    monkeypatch.setattr(models, "next_token_logits", lambda network, hidden: network.get_output_embeddings()(hidden))
    with pytest.raises(BadSpec, match="treats its logits"):
        load_policy(LocalModel(folder), CPU)


def reward_model(architecture: str = "llama", seed: int = 0) -> RewardModel:
    model = RewardModel(random_network(architecture, seed).base_model, "survival", clip=-4.0)
    return model.requires_grad_(False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_and_batch_change_no_token_reward(architecture):
    model = reward_model(architecture)
    together = model.response_rewards(PROMPTS, RESPONSES)
    alone = [model.response_rewards([p], [r]) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


def test_a_sequence_reward_is_read_at_the_last_real_token_whether_it_is_eos_or_not():
    model = RewardModel(random_network().base_model, "seq_edits").requires_grad_(False)
    rewards = model.response_rewards(PROMPTS, RESPONSES)
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        at_end = model.logits(torch.tensor([prompt + response]))[0, -1].item()
        expected += [0.0] * (len(response) - 1) + [at_end]
    torch.testing.assert_close(rewards, torch.tensor(expected), atol=1e-6, rtol=0)
    assert rewards.count_nonzero() == len(RESPONSES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_reward_of_an_unchanged_prefix_is_equal_in_both_versions(architecture):
    model = reward_model(architecture)
    original, edited = [40, 41, 42, 43, 44, EOS], [40, 41, 42, 99, 98, 97, 96, EOS]
    a, b = model.response_rewards([PROMPTS[0]], [original]), model.response_rewards([PROMPTS[0]], [edited])
    torch.testing.assert_close(a[:3], b[:3], atol=3e-7, rtol=0)
    assert not torch.allclose(a[3], b[3], atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_reward_model_comes_back_from_its_folder_as_it_was(tmp_path, architecture):
    policy = load_policy(LocalModel(save_random_policy(tmp_path / "policy", architecture)), CPU)
    model = RewardModel(policy.network.base_model, "survival", clip=-3.0).requires_grad_(False)
    (tmp_path / "reward").mkdir()
    save_reward_model(model, policy, tmp_path / "reward", None)
    again, card, _ = load_reward_model(tmp_path / "reward", CPU)
    assert torch.equal(model.response_rewards(PROMPTS, RESPONSES), again.response_rewards(PROMPTS, RESPONSES))
    assert (card.role, card.vocab_size, card.eos_token_id) == ("token_reward", 400, EOS)


def test_a_reward_folder_opens_in_hugging_face_as_a_token_classifier(reward_folder):
    from transformers import AutoModelForTokenClassification

    classifier = AutoModelForTokenClassification.from_pretrained(reward_folder).eval()
    model, *_ = load_reward_model(reward_folder, CPU)
    ids = torch.tensor([PROMPTS[0] + RESPONSES[0]])
    with torch.no_grad():
        torch.testing.assert_close(classifier(input_ids=ids).logits, model.logits(ids))


def test_a_policy_given_as_reward_model_is_refused(policy_folder):
    with pytest.raises(BadSpec, match="is a policy model"):
        load_reward_model(policy_folder, CPU)


def test_pickled_weights_are_refused(tmp_path, policy_folder):
    folder = tmp_path / "pickled"
    shutil.copytree(policy_folder, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadSpec, match="safetensors"):
        load_policy(LocalModel(folder), CPU)


def test_code_that_comes_with_a_model_is_never_run(tmp_path, policy_folder):
    folder = tmp_path / "custom"
    shutil.copytree(policy_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(BadSpec):
        load_policy(LocalModel(folder), CPU)


def test_missing_weights_are_an_error_and_not_random_numbers(tmp_path, reward_folder):
    folder = tmp_path / "half"
    shutil.copytree(reward_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("score.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(BadSpec, match=r"score\.bias"):
        load_reward_model(folder, CPU)


@pytest.mark.parametrize(
    "load", [lambda folder: load_policy(LocalModel(folder), CPU), lambda f: load_reward_model(f, CPU)]
)
def test_weights_that_were_cut_are_named(tmp_path, policy_folder, reward_folder, load):
    for source in (policy_folder, reward_folder):
        folder = tmp_path / source.parent.name / source.name
        shutil.copytree(source, folder)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
        with pytest.raises(BadSpec, match=str(folder)):
            load(folder)


def test_a_folder_without_a_card_gets_the_plain_format(tmp_path, policy_folder):
    folder = tmp_path / "plain"
    shutil.copytree(policy_folder, folder)
    (folder / "finegrain.json").unlink()
    model = load_policy(LocalModel(folder), CPU)
    newlines = golden_codec().encode("\n\n")
    assert model.codec.format.bos == [1]
    assert model.codec.format.roles["user"].suffix == newlines
    assert model.codec.format.generation_prefix == []
    assert model.card.context_length == 96


def test_only_data_files_of_the_named_revision_come_from_a_hub(policy_folder, monkeypatch):
    asked = {}
    download = lambda name, **options: asked.update(name=name, **options) or str(policy_folder)  # noqa: E731
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model = load_policy(HubModel("org/name", "abc"), CPU)
    assert model.card.vocab_size == 400
    assert (asked["name"], asked["revision"]) == ("org/name", "abc")
    assert not any(fnmatch("model.py", p) or fnmatch("pytorch_model.bin", p) for p in asked["allow_patterns"])


def test_a_tokenizer_with_more_entries_than_the_model_has_embeddings_is_refused(tmp_path, policy_folder):
    folder = tmp_path / "other"
    shutil.copytree(policy_folder, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer["added_tokens"].append({"id": 400, "content": "<|unused|>", "special": True, **added})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_policy(LocalModel(folder), CPU).codec.encode("<|unused|>")[0] < 400  # no text has its id
    tokenizer["added_tokens"].append({"id": 401, "content": "colour", "special": False, **added})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BadSpec, match=r"tokenizer\.json: has 402 entries, but the model has embeddings for 400"):
        load_policy(LocalModel(folder), CPU)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(BadSpec, match=r"tokenizer\.json: is not a tokenizer"):
        load_policy(LocalModel(folder), CPU)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vocab_size": 4000}, "vocab_size: is 4000, but the model has 400"),
        ({"eos_token_id": 400}, "is the token 400"),
    ],
)
def test_a_card_with_ids_beyond_the_embeddings_is_refused(tmp_path, policy_folder, change, said):
    folder = tmp_path / "other"
    shutil.copytree(policy_folder, folder)
    card = json.loads((folder / "finegrain.json").read_text())
    (folder / "finegrain.json").write_text(json.dumps(card | change))
    with pytest.raises(BadSpec, match=said):
        load_policy(LocalModel(folder), CPU)


@pytest.mark.parametrize("break_it", [lambda c: c.pop("eos_token_id"), lambda c: c["prompt_format"].update(bos=["x"])])
def test_a_broken_card_is_named(tmp_path, policy_folder, break_it):
    folder = tmp_path / "broken"
    shutil.copytree(policy_folder, folder)
    card = json.loads((folder / "finegrain.json").read_text())
    break_it(card)
    (folder / "finegrain.json").write_text(json.dumps(card))
    with pytest.raises(BadSpec, match=r"finegrain\.json"):
        load_policy(LocalModel(folder), CPU)
