"""The exported graph computes what PyTorch computes, or it is not released."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support import CPU, GOLDEN, golden_codec
from test_prompt_format import as_prompt

from finegrain_trainer import export
from finegrain_trainer.data import file_digest
from finegrain_trainer.failures import BadSpec, ExportMismatch
from finegrain_trainer.models import load_reward_model
from finegrain_trainer.servable import make_servable


@pytest.fixture(scope="module")
def session(reward_folder):
    return onnxruntime.InferenceSession(str(reward_folder / "reward.onnx"), providers=["CPUExecutionProvider"])


def test_the_folder_is_complete(reward_folder):
    names = {"config.json", "model.safetensors", "reward.onnx", "tokenizer.json", "golden.json", "finegrain.json"}
    assert {p.name for p in reward_folder.iterdir()} == names | {"report.json", "errors.ndjson", "reward.int8.onnx"}
    card = json.loads((reward_folder / "finegrain.json").read_text())
    assert card["role"] == "token_reward"
    assert card["reward"] == {"loss": "survival", "clip": -4.0}
    past = {"layers": 2, "key_value_heads": 1, "head_size": 16}
    int8 = card["onnx"].pop("int8")
    assert card["onnx"] == {"file": "reward.onnx", "input": "input_ids", "output": "rewards", "past": past}
    assert (int8["file"], int8["rank_correlation"] >= 0.995) == ("reward.int8.onnx", True)
    assert json.loads((reward_folder / "report.json").read_text())["int8"] == int8
    assert file_digest(reward_folder / "tokenizer.json") == file_digest(GOLDEN / "tokenizer.json")


@pytest.mark.parametrize("length", [1, 2, 17, 96])
def test_onnx_and_pytorch_agree(session, reward_folder, length):
    model, *_ = load_reward_model(reward_folder, CPU)
    ids = torch.randint(0, 400, (length,), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        expected = model(ids[None])[0].numpy()
    np.testing.assert_allclose(export.graph_rewards(session, ids.numpy()), expected, atol=1e-5)


def test_golden_items_hold_in_onnx_and_cover_the_traps(session, reward_folder):
    golden, codec = json.loads((reward_folder / "golden.json").read_text()), golden_codec()
    assert golden["tolerance"] == 1e-4
    for item in golden["items"]:
        assert item["prompt_token_ids"] == codec.prompt_ids(as_prompt(item["prompt"]))
        assert item["token_ids"] == codec.response_ids(item["response"])
        ids = np.array(item["prompt_token_ids"] + item["token_ids"])
        rewards = export.graph_rewards(session, ids)[len(item["prompt_token_ids"]) :]
        np.testing.assert_allclose(rewards, item["rewards"], atol=1e-5)
    responses = [item["response"] for item in golden["items"]]
    assert any("👩" in text for text in responses)
    assert any("<|eos|>" in text for text in responses)
    assert len({len(item["token_ids"]) for item in golden["items"]}) >= 4


def test_a_graph_that_computes_something_else_is_refused(reward_folder):
    model, card, _ = load_reward_model(reward_folder, CPU)
    items = json.loads((reward_folder / "golden.json").read_text())["items"]
    assert export.check_parity(model, reward_folder / "reward.onnx", items, card.context_length) < 1e-5
    model.score.bias += 0.01
    with pytest.raises(ExportMismatch, match="differ by"):
        export.check_parity(model, reward_folder / "reward.onnx", items, card.context_length)


def test_the_graph_says_nothing_about_the_machine_that_made_it(reward_folder):
    content = (reward_folder / "reward.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_weights_in_safetensors_become_servable_again(reward_folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copyfile(reward_folder / name, bare / name)
    card = json.loads((reward_folder / "finegrain.json").read_text())
    (bare / "finegrain.json").write_text(json.dumps({key: card[key] for key in card if key != "onnx"}))
    (tmp_path / "texts.ndjson").write_text('{"prompt": "Say hello.", "response": "Hello."}\n')

    done = make_servable(bare, tmp_path / "made" / "it", tmp_path / "texts.ndjson")
    assert done["onnx_difference"] < 1e-5
    made = tmp_path / "made" / "it"
    written = json.loads((made / "finegrain.json").read_text())
    assert written["onnx"].pop("int8") == done["int8"]
    del card["onnx"]["int8"]  # measured on other texts
    assert written == card
    assert (made / "reward.onnx").read_bytes() == (reward_folder / "reward.onnx").read_bytes()
    golden = json.loads((made / "golden.json").read_text())
    assert golden["items"][0]["prompt"] == "Say hello."
    assert len(golden["items"]) == done["golden_items"] == 6


@pytest.mark.slow
def test_a_standard_graph_has_no_past_and_no_operator_of_onnx_runtimes_own(reward_folder, tmp_path):
    done = make_servable(reward_folder, tmp_path / "made", None, standard=True)
    assert done["onnx_difference"] < 1e-5
    assert done["int8"] is None
    card = json.loads((tmp_path / "made" / "finegrain.json").read_text())
    assert card["onnx"] == {"file": "reward.onnx", "input": "input_ids", "output": "rewards"}
    graph = onnx.load(tmp_path / "made" / "reward.onnx")
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}


def test_what_cannot_become_servable_is_refused_and_leaves_nothing(reward_folder, tmp_path):
    with pytest.raises(BadSpec, match="is there already"):
        make_servable(reward_folder, tmp_path, None)
    with pytest.raises(BadSpec, match=r"config\.json: is missing"):
        make_servable(tmp_path, tmp_path / "new", None)
    assert not (tmp_path / "new").exists()
