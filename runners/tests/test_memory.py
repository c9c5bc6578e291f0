"""The arithmetic of docs/memory.md is what a run really holds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import CPU
from transformers import AutoModelForCausalLM, LlamaConfig

from finegrain_trainer.adapters import add_adapter
from finegrain_trainer.batching import collate
from finegrain_trainer.failures import OutOfMemory
from finegrain_trainer.memory import SHAPES, Shape, check_fits, passing, peak, standing, table
from finegrain_trainer.models import recompute_layers, response_log_probs, store_frozen
from finegrain_trainer.optimization import adamw, descend
from finegrain_trainer.parallel import Part, place_module
from finegrain_trainer.spec import PpoOptions, RewardOptions, SftOptions

SHAPE = Shape(hidden=64, layers=3, mlp=160, key_values=32, vocabulary=500, tied=True)
ROWS, TOKENS = 4, 48


def network(shape: Shape = SHAPE) -> torch.nn.Module:
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def batch():
    return collate([[1] * (TOKENS // 2)] * ROWS, [[2] * (TOKENS // 2)] * ROWS, CPU)


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_stands_in_memory_is_counted_to_the_byte(lora_rank, precision):
    options = SftOptions(lora_rank=lora_rank, precision=precision)
    model, data = network(), batch()
    assert sum(p.numel() for p in model.parameters()) == SHAPE.parameters
    if lora_rank:
        model.requires_grad_(False)
        add_adapter(model.base_model, lora_rank, 8.0, 0)
        store_frozen(model, precision)
    placed, optimizer = place_module(model, precision, CPU), adamw(model, 1e-3, 0.0)
    losses = lambda rows: {"loss": -response_log_probs(model, data).mean()}  # noqa: E731
    descend(placed, optimizer, [Part([0], 1.0)], losses, 1.0)

    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == (SHAPE.adapter_parameters(lora_rank) if lora_rank else SHAPE.parameters)
    states = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    tensors = [*model.parameters(), *(p.grad for p in trained), *states]
    expected = standing(SHAPE.parameters, sum(p.numel() for p in trained), options)
    assert sum(t.numel() * t.element_size() for t in tensors) == sum(expected.values())


def kept_for_backward(shape: Shape, recompute: bool, precision: str) -> int:
    """Bytes of all that forward saves, without the weights themselves."""
    model = network(shape)
    if recompute:
        recompute_layers(model.base_model, Path("."))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = place_module(model, precision, CPU)(response_log_probs, model, batch()).sum()
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_layer_keeps_for_backward_is_what_was_counted(recompute, precision):
    options = SftOptions(gradient_checkpointing=recompute, precision=precision)
    deeper = replace(SHAPE, layers=SHAPE.layers + 2)
    measured = kept_for_backward(deeper, recompute, precision) - kept_for_backward(SHAPE, recompute, precision)
    counted = [passing(shape, options, ROWS, TOKENS)["activations"] for shape in (SHAPE, deeper)]
    expected = counted[1] - counted[0]
    if precision == "bf16" and not recompute:  # the copies of autocast, which are counted with the weights
        expected += 2 * 2 * (SHAPE.layer_parameters - 2 * SHAPE.hidden)
    assert measured == pytest.approx(expected, rel=0.0 if recompute else 0.01)


def test_the_published_sizes_are_those_of_the_models():
    assert {name: round(shape.parameters / 1e9, 2) for name, shape in SHAPES.items()} == {
        "1B": 1.24, "7B": 6.74, "13B": 13.02,
    }  # fmt: skip


def test_full_fine_tuning_takes_sixteen_bytes_a_parameter_and_shards_share_them():
    alone = standing(1000, 1000, SftOptions())
    assert sum(alone.values()) == 16_000
    assert {name: value / 4 for name, value in alone.items()} == standing(1000, 1000, SftOptions(), processes=4)
    assert standing(1000, 1000, PpoOptions(precision="bf16"))["frozen weights"] == 2 * 2 * 1000
    with_lora = PpoOptions(precision="bf16", lora_rank=8)
    assert standing(1000, 10, with_lora)["frozen weights"] == 2 * 1000
    assert standing(1000, 10, with_lora, shared_reward=False)["frozen weights"] == 4 * 1000


def test_every_option_that_is_to_save_memory_does():
    shape = SHAPES["7B"]
    options = replace(PpoOptions(), micro_batch_size=8)
    for saving in ({"micro_batch_size": 1}, {"gradient_checkpointing": True}, {"lora_rank": 16}):
        assert peak(shape, replace(options, **saving), 1024) < peak(shape, options, 1024), saving
    assert peak(shape, options, 1024, processes=4) < 0.6 * peak(shape, options, 1024)
    assert peak(shape, RewardOptions(micro_batch_size=1), 1024) > peak(shape, SftOptions(micro_batch_size=1), 1024)


def test_a_model_that_cannot_fit_is_refused_with_the_numbers():
    shape = SHAPES["7B"]
    with pytest.raises(
        OutOfMemory, match=r"6\.7 billion parameters take 107\.8 GB before any batch .*80\.0 GB.*lora_rank"
    ):
        check_fits(shape.parameters, shape.parameters, SftOptions(), 1, int(80e9))
    check_fits(shape.parameters, shape.parameters, SftOptions(), 2, int(80e9))


def test_the_document_has_the_table_that_the_program_makes():
    document = (Path(__file__).parents[2] / "docs/memory.md").read_text(encoding="utf-8")
    assert table() in document
