"""What the tests share: a tiny world of texts, tiny models, and runs of the trainer in processes that can be killed."""

import hashlib
import json
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finegrain_trainer.__main__ import classify, run
from finegrain_trainer.failures import Interrupted
from finegrain_trainer.models import (
    LanguageModel,
    ModelCard,
    RewardModel,
    load_policy,
    save_policy,
    save_reward_model,
)
from finegrain_trainer.prompt_format import TextCodec, load_tokenizer
from finegrain_trainer.protocol import EXIT_DONE, EXIT_INTERRUPTED, Reporter, StopRequest
from finegrain_trainer.spec import LocalModel, parse_spec
from finegrain_trainer.tokenizer import BOS, EOS, PAD, chat_format

CPU = torch.device("cpu")
GOLDEN = Path(__file__).parents[2] / "test" / "golden"
NAMES = ["Anna", "Bob", "Carl", "Dora", "Emil", "Faye"]
PLACES = ["harbour", "garden", "concert", "station", "river", "summer"]
CONTEXT = 96


# ---- data


def world_row(rng: random.Random) -> tuple[str, str, str]:
    """A prompt, a response with one wrong name and the response put right."""
    name, wrong = rng.sample(NAMES, 2)
    place = rng.choice(PLACES)
    ending = " Thank you 👍." * rng.randrange(3)
    prompt = f"Write a short note to {name} about the {place}."
    good = f"Dear {name}, this note is about the {place}.{ending}"
    return prompt, good.replace(name, wrong), good


def examples(count: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        prompt, bad, good = world_row(rng)
        response = bad if rng.random() < 0.5 else good
        split = "validation" if index % 8 == 7 else "train"
        rows.append({"id": f"x{index}", "prompt": prompt, "response": response, "split": split})
    return rows


def label_rows(codec: TextCodec, count: int, seed: int = 0) -> list[dict]:
    """Edits whose changed tokens are labelled, and a pair for each."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        prompt, bad, good = world_row(rng)
        head = {"split": ("train", "train", "validation", "test")[index % 4], "prompt": prompt}
        head["prompt_token_ids"] = codec.prompt_ids(as_prompt(prompt))
        original, edited = codec.response_ids(bad), codec.response_ids(good)
        same = next(i for i, (a, b) in enumerate(zip(original, edited, strict=False)) if a != b)
        tail = next(i for i, (a, b) in enumerate(zip(original[::-1], edited[::-1], strict=False)) if a != b)
        places = [list(range(same, len(ids) - tail)) for ids in (original, edited)]
        hunk = {"original": places[0], "edited": places[1], "bad": places[0], "good": places[1]}
        labels = [int(i in places[0]) for i in range(len(original))]
        rows.append({
            "type": "edit", "id": f"e{index}", **head, "usable": True, "hunks": [hunk],
            "original": {"text": bad, "token_ids": original, "labels": labels, "changed": labels},
            "edited": {"text": good, "token_ids": edited, "labels": [0] * len(edited), "changed": [0] * len(edited)},
        })  # fmt: skip
        rows.append({
            "type": "pair", "id": f"p{index}", **head,
            "preferred": {"text": good, "token_ids": edited}, "other": {"text": bad, "token_ids": original},
        })  # fmt: skip
    return rows


def two_hunk_rows(count: int) -> list[dict]:
    """Edits with a hunk for a name and one for a place, one token each labelled as good; and other pairs."""
    rng, codec = random.Random(6), golden_codec()
    encode = lambda text: codec.response_ids(text)[:-1]  # noqa: E731
    rows = []
    for index in range(count):
        (name, wrong), (place, elsewhere) = rng.sample(NAMES, 2), rng.sample(PLACES, 2)
        prompt = f"Write to {name} about the {place}."
        head = {"split": "train", "prompt": prompt, "prompt_token_ids": codec.prompt_ids(as_prompt(prompt))}
        sides, places = [], []
        for pieces in (["Dear ", wrong, ", about the ", elsewhere, "."], ["Dear ", name, ", about the ", place, "."]):
            ids: list[int] = []
            spans = []
            for piece in pieces:
                spans.append(list(range(len(ids), len(ids) + len(encode(piece)))))
                ids += encode(piece)
            sides.append({"text": "".join(pieces), "token_ids": [*ids, EOS]})
            places.append([spans[1], spans[3]])
        hunks = [{"original": b, "edited": g, "bad": b, "good": g[:1]} for b, g in zip(*places, strict=True)]
        bad = {place for hunk in hunks for place in hunk["bad"]}
        labels = [[int(i in bad) for i in range(len(sides[0]["token_ids"]))], [0] * len(sides[1]["token_ids"])]
        original, edited = ({**s, "labels": label, "changed": label} for s, label in zip(sides, labels, strict=True))
        rows.append({"type": "edit", "id": f"e{index}", **head, "usable": True, "hunks": hunks,
                     "original": original, "edited": edited})  # fmt: skip
        other = f"The {place} is far away, {name}."
        rows.append({"type": "pair", "id": f"p{index}", **head, "preferred": sides[1],
                     "other": {"text": other, "token_ids": codec.response_ids(other)}})  # fmt: skip
    return rows


def as_prompt(text: str) -> tuple:
    from finegrain_trainer.data import Message

    return (Message("user", text),)


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def golden_codec() -> TextCodec:
    return TextCodec(load_tokenizer(GOLDEN / "tokenizer.json"), chat_format(), EOS)


# ---- models

# Random weights of several architectures, with what each of them is known to trip trainers with.
ARCHITECTURES = {
    "llama": {"num_key_value_heads": 1, "tie_word_embeddings": True},  # grouped queries
    "qwen2": {"num_key_value_heads": 2},  # biases in attention
    "gemma2": {"num_key_value_heads": 1, "head_dim": 16, "final_logit_softcapping": 3.0, "sliding_window": 8},
    "cohere": {"logit_scale": 0.25, "num_key_value_heads": 2},  # logits scaled after the output layer
    "gpt2": {},  # learned positions
}


def random_network(architecture: str = "llama", seed: int = 0, vocab_size: int = 400) -> torch.nn.Module:
    """A two-layer network, by default for the golden tokenizer; its weights are large enough to make it opinionated."""
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model(
        architecture, vocab_size=vocab_size, **size, intermediate_size=48, max_position_embeddings=CONTEXT,
        initializer_range=0.15, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, **ARCHITECTURES[architecture],
    )  # fmt: skip
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def save_random_policy(folder: Path, architecture: str = "llama", seed: int = 0) -> Path:
    """A policy folder as a registered model has it."""
    folder.mkdir(parents=True)
    card = ModelCard("policy", 400, CONTEXT, EOS, chat_format())
    save_policy(LanguageModel(random_network(architecture, seed), card, golden_codec(), GOLDEN), folder)
    return folder


def save_random_reward_model(policy: Path, folder: Path, loss: str = "survival") -> Path:
    """A reward model for the policy in `policy`, with large rewards."""
    model = RewardModel(random_network(seed=1).base_model, loss, clip=-4.0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.score.weight.copy_(torch.randn(model.score.weight.shape, generator=generator) * 0.3)
        model.score.bias.fill_(-1.0)
    folder.mkdir()
    save_reward_model(model, load_policy(LocalModel(policy), CPU), folder, None)
    return folder


def loss_of_step(model: Any, rows: list, options: Any, weights: torch.Tensor | None = None) -> torch.Tensor:
    """The loss of a step that has these rows and no others; `weights` [rows, heads], 1 unless given."""
    from finegrain_trainer.reward import batch_loss, loss_counts

    weights = torch.ones(len(rows), model.heads) if weights is None else weights
    return batch_loss(model, rows, options, weights, loss_counts(model.loss, rows, []))


# ---- runs


def run_here(kind: str, spec: dict, workdir: Path) -> dict:
    """Runs a kind in this process; its result. Protocol lines go nowhere."""
    import importlib

    workdir.mkdir(parents=True, exist_ok=True)
    reporter = Reporter(os.open(os.devnull, os.O_WRONLY))
    module = importlib.import_module(f"finegrain_trainer.{kind}")
    return module.run(parse_spec(spec, kind, workdir), workdir, CPU, reporter, StopRequest())


def run_process(
    kind: str,
    spec: dict,
    workdir: Path,
    on_line: Callable[[int, dict], None] = lambda pid, line: None,
    in_process: Callable[[Reporter], None] = lambda reporter: None,
) -> tuple[int, list[dict]]:
    """Runs a kind in a process of its own (forked, which spares the seconds of importing torch).

    `on_line(pid, line)` sees every protocol line while the process lives; `in_process(reporter)` is called in it before
    the run. Returns exit code (minus the signal that killed it) and lines.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            torch.manual_seed(random.SystemRandom().randrange(2**31))  # nothing may lean on inherited random state
            workdir.mkdir(parents=True, exist_ok=True)
            stop = StopRequest()
            stop.on_signals()
            reporter = Reporter(writing)
            in_process(reporter)
            run(parse_spec(spec, kind, workdir), kind, workdir, reporter, stop)
            code = EXIT_DONE
        except Interrupted:
            code = EXIT_INTERRUPTED
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            reporter.failure(classify(error).reason, str(error))
        finally:
            os._exit(code)
    os.close(writing)
    lines = []
    with os.fdopen(reading, encoding="utf-8") as stream:
        for text in stream:
            if text.endswith("\n"):  # a killed process may leave half a line
                lines.append(json.loads(text))
                on_line(pid, lines[-1])
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), lines


def kill_at_step(step: int, number: int = signal.SIGKILL) -> Callable[[int, dict], None]:
    """Signals the process when it says that it has done `step` steps of its training."""

    def on_line(pid: int, line: dict) -> None:
        if line["type"] == "progress" and line["stage"] == "train" and line["step"] == step:
            os.kill(pid, number)

    return on_line


def outcome_digest(workdir: Path) -> str:
    """SHA-256 over the final weights and all tensors and state of the last checkpoint."""
    last = max((workdir / "checkpoints").glob("step-*"))
    digest = hashlib.sha256()
    for path in (workdir / "output/model/model.safetensors", last / "tensors.safetensors", last / "state.json"):
        digest.update(path.read_bytes())
    return digest.hexdigest()
