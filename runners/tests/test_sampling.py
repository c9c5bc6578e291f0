"""Decoding says the same as a forward pass, whatever stands beside a row."""

import pytest
import torch
from support import ARCHITECTURES, CPU, EOS, random_network
from transformers import DynamicCache

from finegrain_trainer import sampling
from finegrain_trainer.batching import collate, unpack
from finegrain_trainer.models import hidden_states, response_log_probs
from finegrain_trainer.sampling import sample

# Few tokens, so that EOS comes up every now and then.
VOCAB = 24
PROMPTS = [[1, 4, 10, 16, 17, 5], [1, 4, 5], [1, 4, 20, 21, 22, 23, 14, 15, 16, 17, 5], [1, 4, 13, 5]]
BUDGET = 24


def uniforms(rows: int = len(PROMPTS), seed: int = 3) -> torch.Tensor:
    return torch.rand(rows, BUDGET, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_of_decoding_are_those_of_a_forward_pass(architecture, temperature):
    network = random_network(architecture, vocab_size=VOCAB)
    prompts = PROMPTS * 6
    out = sample(network, prompts, uniforms(len(prompts)), EOS, temperature)
    with torch.no_grad():
        again = response_log_probs(network, collate(prompts, out.lists(), CPU), temperature)
    torch.testing.assert_close(out.log_probs, unpack(again, out.mask), atol=4e-6, rtol=0)
    assert len(out.mask.sum(1).unique()) > 1, "rows should end at different places, or this shows little"


def test_values_are_read_before_each_token():
    network = random_network(vocab_size=VOCAB)
    head = torch.randn(32, generator=torch.Generator().manual_seed(0))
    out = sample(network, PROMPTS, uniforms(), EOS, 1.0, lambda hidden: hidden @ head)
    batch = collate(PROMPTS, out.lists(), CPU)
    with torch.no_grad():
        before = (hidden_states(network.base_model, batch.ids) @ head)[:, :-1][batch.is_response[:, 1:]]
    torch.testing.assert_close(out.values, unpack(before, out.mask), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_and_batch_mates_change_nothing(architecture):
    network = random_network(architecture, vocab_size=VOCAB)
    together = sample(network, PROMPTS, uniforms(), EOS, 1.0)
    for row, prompt in enumerate(PROMPTS):
        alone = sample(network, [prompt], uniforms()[row : row + 1], EOS, 1.0)
        assert alone.lists()[0] == together.lists()[row]
        n = alone.mask.shape[1]
        torch.testing.assert_close(alone.log_probs[0], together.log_probs[row, :n], atol=2e-6, rtol=0)


def test_dropping_finished_rows_changes_nothing(monkeypatch):
    network = random_network(vocab_size=VOCAB)
    prompts, numbers = PROMPTS * 8, uniforms(8 * len(PROMPTS))
    dropped = sample(network, prompts, numbers, EOS, 1.0)
    monkeypatch.setattr(sampling, "DROP_SHARE", 2.0)
    kept = sample(network, prompts, numbers, EOS, 1.0)
    assert dropped.lists() == kept.lists()
    torch.testing.assert_close(dropped.log_probs, kept.log_probs, atol=2e-6, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keys_and_values_in_room_of_their_own_change_no_bit(architecture, monkeypatch):
    network = random_network(architecture, vocab_size=VOCAB)
    prompts, numbers = PROMPTS * 8, uniforms(8 * len(PROMPTS))
    monkeypatch.setattr(sampling, "ROOM", 7)  # it grows a few times
    roomy = sample(network, prompts, numbers, EOS, 1.0)
    monkeypatch.setattr(sampling, "roomy_cache", lambda network: DynamicCache(config=network.config))
    plain = sample(network, prompts, numbers, EOS, 1.0)
    assert torch.equal(roomy.ids, plain.ids)
    assert torch.equal(roomy.log_probs, plain.log_probs)


def test_rows_end_at_eos_or_at_the_budget_and_say_which():
    out = sample(random_network(vocab_size=VOCAB), PROMPTS * 8, uniforms(8 * len(PROMPTS)), EOS, 1.0)
    assert set(out.ended.tolist()) == {True, False}
    for ids, ended in zip(out.lists(), out.ended.tolist(), strict=True):
        assert EOS not in ids[:-1]
        assert (ids[-1] == EOS) == ended
        assert ended or len(ids) == BUDGET


def test_temperature_0_takes_the_likeliest_token():
    network = random_network(vocab_size=VOCAB)
    out = sample(network, PROMPTS[:1], uniforms(1), EOS, 0.0)
    ids = PROMPTS[0] + out.lists()[0]
    with torch.no_grad():
        likeliest = network(input_ids=torch.tensor([ids])).logits[0].argmax(-1)
    assert out.lists()[0] == likeliest[len(PROMPTS[0]) - 1 : -1].tolist()


def test_tokens_are_drawn_with_their_probabilities():
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    numbers = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    drawn = sampling._invert(probabilities.log().expand(20_000, 6), numbers)
    shares = torch.bincount(drawn, minlength=6) / 20_000
    torch.testing.assert_close(shares, probabilities, atol=0.015, rtol=0)
    assert shares[[0, 2, 5]].sum() == 0
    edge = torch.tensor([0.0, 1.0 - 2**-24])
    assert sampling._invert(probabilities.log().expand(2, 6), edge).tolist() == [1, 4]
