"""Whatever is wrong with a spec or a row is said with file, line and key."""

import json

import pytest

from finegrain_trainer.data import read_examples, read_labels, read_prompts
from finegrain_trainer.failures import BadSpec
from finegrain_trainer.spec import HubModel, PpoOptions, ScratchModel, parse_spec, read_spec


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.ndjson").write_text("{}\n")
    return tmp_path


def sft(**changes) -> dict:
    return {"base_model": {"path": "model"}, "data": {"examples": "rows.ndjson"}, **changes}


def ppo(**hyperparameters) -> dict:
    return {
        "policy": {"path": "model"},
        "reward_model": {"path": "model"},
        "data": {"prompts": "rows.ndjson"},
        "hyperparameters": hyperparameters,
    }


def reward(**hyperparameters) -> dict:
    return {"base_model": {"path": "model"}, "data": {"labels": "rows.ndjson"}, "hyperparameters": hyperparameters}


def test_every_hyperparameter_has_a_default_and_paths_are_from_the_spec_folder(folder):
    spec = parse_spec(ppo(), "ppo", folder)
    assert spec.options == PpoOptions()
    assert spec.seed == 0
    assert spec.prompts == folder / "rows.ndjson"
    assert parse_spec(ppo(beta=1), "ppo", folder).options.beta == 1.0


def test_models_from_a_hub_and_from_scratch(folder):
    hub = parse_spec(sft(base_model={"hub": "org/name", "revision": "main"}), "sft", folder)
    assert hub.base_model == HubModel("org/name", "main")
    scratch = parse_spec(sft(base_model={"scratch": {"hidden_size": 32}}), "sft", folder)
    assert scratch.base_model == ScratchModel(hidden_size=32)


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("sft", [], "expected an object"),
        ("sft", sft(kind="ppo"), "kind: is 'ppo'"),
        ("sft", sft(sede=1), "unknown key 'sede'"),
        ("sft", sft(seed=1.5), "seed: expected an integer"),
        ("sft", sft(seed=True), "seed: expected an integer"),
        ("sft", {"data": {"examples": "rows.ndjson"}}, "base_model: is required"),
        ("sft", sft(data={}), "data.examples: is required"),
        ("sft", sft(data={"examples": "none.ndjson"}), "data.examples: none.ndjson does not exist"),
        ("sft", sft(data={"examples": 3}), "data.examples: expected a path"),
        ("sft", sft(data={"examples": "rows.ndjson", "labels": "x"}), "data: unknown key 'labels'"),
        ("sft", sft(base_model={"path": "nowhere"}), "base_model.path: nowhere does not exist"),
        ("sft", sft(base_model={"hub": "a/b"}), "base_model: expected one of"),
        ("sft", sft(base_model={"path": "model", "revision": "x"}), "base_model: expected one of"),
        ("sft", sft(base_model={"scratch": {"num_heads": 3}}), "base_model.scratch.hidden_size"),
        ("sft", sft(base_model={"scratch": {"vocab_size": 100}}), "base_model.scratch.vocab_size: must be at least"),
        ("sft", sft(hyperparameters={"lr": 1}), "hyperparameters: unknown key 'lr'"),
        ("sft", sft(hyperparameters={"learning_rate": 0}), "hyperparameters.learning_rate: must be above 0"),
        ("sft", sft(hyperparameters={"learning_rate": "1"}), "hyperparameters.learning_rate: expected a number"),
        ("sft", sft(hyperparameters={"learning_rate": float("nan")}), "hyperparameters.learning_rate: expected"),
        ("sft", sft(hyperparameters={"epochs": 1.0}), "hyperparameters.epochs: expected an integer"),
        ("sft", sft(hyperparameters={"epochs": True}), "hyperparameters.epochs: expected an integer"),
        ("sft", sft(hyperparameters=[]), "hyperparameters: expected an object"),
        ("ppo", ppo(mu="mean"), "hyperparameters.mu: expected one of batch, slope, zero"),
        ("ppo", ppo(gae_lambda=1.1), "hyperparameters.gae_lambda: must be at most 1"),
        ("ppo", ppo(batch_size=4, minibatches=8), "hyperparameters.minibatches: cannot be more"),
        ("ppo", ppo(batch_size=4, samples_per_prompt=3), "hyperparameters.batch_size: must be a multiple"),
        ("ppo", ppo(advantage="leave_one_out"), "hyperparameters.samples_per_prompt: leave_one_out needs"),
        ("reward", reward(uncertainty_penalty=1), "hyperparameters.heads: uncertainty_penalty needs at least 2"),
        (
            "reward",
            reward(preferred_responses=1) | {"loss": "seq_pairs"},
            "hyperparameters.preferred_responses: seq_pairs",
        ),
        ("ppo", ppo() | {"policy": {"scratch": {}}}, "policy: unknown key 'scratch'"),
        (
            "reward",
            {"base_model": {"path": "model"}, "loss": "bt", "data": {"labels": "rows.ndjson"}},
            "loss: expected",
        ),
        ("ppo", ppo() | {"evaluation": {}}, "evaluation.prompts: is required"),
        ("ppo", ppo() | {"evaluation": {"prompts": "rows.ndjson", "every": 0}}, "evaluation.every: must be at least"),
        (
            "ppo",
            ppo() | {"evaluation": {"prompts": "rows.ndjson", "kl_reference": {"path": "gone"}}},
            "evaluation.kl_reference.path: gone does not exist",
        ),
        (
            "generate",
            {
                "model": {"path": "model"},
                "kl_reference": {"path": "model"},
                "data": {"prompts": "rows.ndjson"},
                "hyperparameters": {"temperature": 0},
            },
            "kl_reference: needs a temperature above 0",
        ),
        ("generate", {"data": {"prompts": "rows.ndjson"}}, "model: is required"),
    ],
)
def test_what_is_wrong_with_a_spec_is_named(folder, kind, spec, message):
    with pytest.raises(BadSpec) as error:
        parse_spec(spec, kind, folder)
    assert message in str(error.value)


def test_a_spec_that_is_not_json_is_named(folder):
    (folder / "spec.json").write_text("{")
    with pytest.raises(BadSpec, match=r"spec\.json: is not JSON"):
        read_spec(folder / "spec.json", "sft")


# ---- rows


def edit(**changes) -> dict:
    version = {"text": "a", "token_ids": [7, 2], "labels": [1, 0], "changed": [1, 0]}
    row = {"type": "edit", "id": "e", "split": "train", "prompt": "p", "prompt_token_ids": [1]}
    return {**row, "original": version, "edited": {**version, "labels": [0, 0]}, "usable": True, **changes}


PAIR = {**edit(type="pair"), "preferred": edit()["edited"], "other": edit()["original"]}
EXAMPLE = {"id": "x", "prompt": "p", "response": "r", "split": "train"}


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (read_examples, [1], "expected an object"),
        (read_examples, {**EXAMPLE, "id": 3}, "id: expected a string, got 3"),
        (read_examples, {k: v for k, v in EXAMPLE.items() if k != "response"}, "response: is required"),
        (read_examples, {**EXAMPLE, "split": "dev"}, "split: expected one of train, validation, test, got 'dev'"),
        (read_examples, {**EXAMPLE, "response": "\ud800"}, "response: holds a lone surrogate"),
        (read_examples, {**EXAMPLE, "prompt": []}, "prompt: has no messages"),
        (read_examples, {**EXAMPLE, "prompt": ["hi"]}, "prompt[0]: expected an object"),
        (read_examples, {**EXAMPLE, "prompt": [{"role": "tool", "content": ""}]}, "prompt[0].role: expected one of"),
        (read_examples, {**EXAMPLE, "prompt": [{"role": "user"}]}, "prompt[0].content: is required"),
        (read_prompts, {"id": "x"}, "prompt: is required"),
        ("labels", edit(type="vote"), "type: expected 'edit' or 'pair'"),
        ("labels", edit(usable="yes"), "usable: expected true or false"),
        ("labels", edit(prompt_token_ids=[]), "prompt_token_ids: expected a non-empty list"),
        ("labels", edit(prompt_token_ids=[1, 400]), "prompt_token_ids[1]: expected an id from 0 to 399, got 400"),
        ("labels", edit(original={"text": "a", "token_ids": [7, 2], "labels": [1]}), "original.labels: has 1 entries"),
        ("labels", edit(edited={"text": "a", "token_ids": [7], "labels": [2]}), "edited.labels: expected a list of 0"),
        ("labels", edit(edited={"text": "a", "token_ids": [-1]}), "edited.token_ids[0]: expected an id"),
        ("labels", edit(edited=None), "edited: expected an object"),
        ("labels", edit(pair=3), "pair: expected a string, got 3"),
        ("labels", {**edit(), "type": "pair"}, "preferred: is required"),
        ("labels", {**PAIR, "votes": {"preferred": 2, "other": -1, "tie": 0}}, "votes: expected the numbers"),
        ("labels", {**PAIR, "votes": [2, 1]}, "votes: expected the numbers"),
        ("labels", edit(hunks=[{"original": [0], "edited": [2]}]), "hunks[0].edited: expected a list of token pos"),
        (
            "labels",
            edit(hunks=[{"original": [0], "edited": [], "bad": [0], "good": []}]),
            "hunks: do not leave equally many",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_named_with_its_line(tmp_path, read, row, message):
    good = EXAMPLE if read != "labels" else edit()
    path = tmp_path / "rows.ndjson"
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(row)}\n")
    with pytest.raises(BadSpec) as error:
        read_labels(path, 400) if read == "labels" else read(path)
    assert f"rows.ndjson line 3: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"), [(b'{"id"', "is not JSON"), (b"\xff\xfe", "is not UTF-8"), (b" \n", "has no rows")]
)
def test_files_that_hold_no_rows_are_named(tmp_path, content, message):
    (tmp_path / "rows.ndjson").write_bytes(content)
    with pytest.raises(BadSpec, match=message):
        read_prompts(tmp_path / "rows.ndjson")


def test_a_byte_order_mark_blank_lines_and_other_columns_are_no_error(tmp_path):
    (tmp_path / "rows.ndjson").write_bytes(b"\xef\xbb\xbf" + json.dumps({**EXAMPLE, "extra": 1}).encode() + b"\r\n\r\n")
    assert [row.id for row in read_examples(tmp_path / "rows.ndjson")] == ["x"]


def test_a_tie_is_half_a_vote_for_either_response(tmp_path):
    votes = [{"preferred": 3, "other": 1, "tie": 1}, {"preferred": 0, "other": 0, "tie": 0}]
    rows = [{**PAIR, "votes": counted} for counted in votes] + [PAIR]
    (tmp_path / "rows.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, pairs = read_labels(tmp_path / "rows.ndjson", 400)
    assert [pair.vote_share for pair in pairs] == [0.7, None, None]


def test_an_edit_that_is_not_usable_needs_no_labels(tmp_path):
    version = {"text": "a", "token_ids": [7, 2]}
    (tmp_path / "rows.ndjson").write_text(json.dumps(edit(original=version, edited=version, usable=False)))
    edits, pairs = read_labels(tmp_path / "rows.ndjson", 400)
    assert (len(edits), len(pairs), edits[0].usable) == (1, 0, False)
