"""Batched decoding with a key/value cache: prompts padded on the left, finished rows dropped on the way.

The ids, log-probabilities and values are those of decoding itself, never of re-encoded text or of a second pass.
Each row is drawn from its own uniform numbers by inverting its cumulative distribution, so what a row says does not
depend on the rows beside it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from .batching import unpack
from .models import next_token_logits
from .parallel import Placed, gathered, own_rows, process_count

# Finished rows are taken out once they are this share of those still computed.
DROP_SHARE = 0.25
# Keys and values get room for so many further tokens at a time.
ROOM = 64


@dataclass(frozen=True)
class Responses:
    """Decoded responses, [batch, time] each; 0 outside `mask`. `ended` [batch]: closed by EOS, not cut."""

    ids: Tensor
    mask: Tensor
    log_probs: Tensor
    values: Tensor
    ended: Tensor

    def on_cpu(self) -> "Responses":
        return Responses(**{name: column.cpu() for name, column in vars(self).items()})

    def lists(self) -> list[list[int]]:
        """Token ids of each row, EOS included."""
        return [row[keep].tolist() for row, keep in zip(self.ids.cpu(), self.mask.cpu(), strict=True)]


@torch.no_grad()
def sample(
    network: PreTrainedModel,
    prompts: list[list[int]],
    uniforms: Tensor,
    eos_token_id: int,
    temperature: float,
    value_head: Callable[[Tensor], Tensor] | None = None,
) -> Responses:
    """Responses of at most `uniforms.shape[1]` tokens to tokenised prompts; temperature 0 takes the likeliest token.

    `uniforms` [batch, time] in [0, 1) are all the randomness there is. `value_head` maps hidden states [batch, hidden]
    to values [batch], read before each token.
    """
    backbone, device = network.base_model, network.device
    rows, budget = uniforms.shape
    out_ids = torch.zeros(rows, budget, dtype=torch.long, device=device)
    out_mask = torch.zeros(rows, budget, dtype=torch.bool, device=device)
    out_log_probs, out_values = torch.zeros(rows, budget, device=device), torch.zeros(rows, budget, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    uniforms = uniforms.to(device)

    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=device)
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    takes_positions = "position_ids" in inspect.signature(backbone.forward).parameters
    cache = roomy_cache(network)
    active = torch.arange(rows, device=device)  # the row that each row of the computation stands for
    alive = torch.ones(rows, dtype=torch.bool, device=device)

    for t in range(budget):
        positions = (
            {"position_ids": (attention.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]} if takes_positions else {}
        )
        hidden = backbone(
            input_ids=ids, attention_mask=attention, past_key_values=cache, use_cache=True, **positions
        ).last_hidden_state[:, -1]
        logits = next_token_logits(network, hidden)
        log_probs = torch.log_softmax(logits / (temperature or 1.0), dim=-1)
        token = log_probs.argmax(-1) if temperature == 0 else _invert(log_probs, uniforms[active, t])
        now = active[alive]
        out_ids[now, t], out_mask[now, t] = token[alive], True
        out_log_probs[now, t] = log_probs.gather(1, token[:, None])[alive, 0]
        if value_head is not None:
            out_values[now, t] = value_head(hidden)[alive]
        ended[now] = token[alive] == eos_token_id
        alive = ~ended[active]
        living = int(alive.sum())
        if living == 0:
            break
        ids, attention = token[:, None], torch.cat([attention, attention.new_ones(len(active), 1)], dim=1)
        if living <= (1 - DROP_SHARE) * len(active):
            keep = alive.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            ids, attention, active, alive = ids[keep], attention[keep], active[keep], alive[keep]

    longest = int(out_mask.any(0).sum())
    cut = slice(0, longest)
    return Responses(out_ids[:, cut], out_mask[:, cut], out_log_probs[:, cut], out_values[:, cut], ended)


class RoomyLayer(DynamicLayer):
    """Writes new keys and values into room that is there, where DynamicLayer copies all of them for each token."""

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[Tensor] = []  # keys, values: [batch, heads, time, head size], with time to spare

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        if not self._rooms or self._rooms[0].shape[-2] < new:
            kept = (self.keys, self.values)
            self._rooms = [x.new_empty(*x.shape[:-2], new + ROOM, x.shape[-1]) for x in (key_states, value_states)]
            if old:
                for room, states in zip(self._rooms, kept, strict=True):
                    room[..., :old, :] = states
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[..., old:new, :] = states
        self.keys, self.values = (room[..., :new, :] for room in self._rooms)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.get_seq_length()
        if length:
            self._rooms = [room[indices] for room in self._rooms]
            self.keys, self.values = (room[..., :length, :] for room in self._rooms)


def roomy_cache(network: PreTrainedModel) -> DynamicCache:
    """An empty cache of the kind that the network wants; layers that keep everything they see are RoomyLayers."""
    cache = DynamicCache(config=network.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def sample_together(
    placed: Placed,
    network: PreTrainedModel,
    prompts: list[list[int]],
    uniforms: Tensor,
    eos_token_id: int,
    temperature: float,
    value_head: Callable[[Tensor], Tensor] | None = None,
) -> Responses:
    """What `sample` gives for all rows, each process decoding its share of them."""
    own = own_rows(len(prompts))

    def sample_own() -> Responses | None:
        if not prompts[own]:
            return None
        return sample(network, prompts[own], uniforms[own], eos_token_id, temperature, value_head)

    sampled = placed.at_its_own_pace(sample_own)
    if process_count() == 1:
        return sampled
    columns = [vars(share) for share in gathered(sampled and sampled.on_cpu()) if share]
    longest = max(share["mask"].shape[1] for share in columns)

    def joined(name: str) -> Tensor:
        shares = [share[name] for share in columns]
        wide = [F.pad(s, (0, longest - s.shape[1])) if s.dim() == 2 else s for s in shares]
        return torch.cat(wide).to(placed.device)

    return Responses(**{name: joined(name) for name in columns[0]})


def response_kl(sampled: Responses, log_probs: Tensor) -> Tensor:
    """k1 [batch]: the log-probability of each sampled response less the one that a reference gives its tokens, of which
    `log_probs` [n] has those of all responses."""
    return ((sampled.log_probs - unpack(log_probs, sampled.mask)) * sampled.mask).sum(1)


def row_uniforms(seed: int, row: int, count: int) -> Tensor:
    """The `count` uniform numbers of one row: of its own, whatever else is decoded."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + row))


def _invert(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """The token [batch] at which each cumulative distribution passes its uniform number; never one of probability 0."""
    cumulative = log_probs.double().exp().cumsum(-1)
    thresholds = uniforms.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, thresholds, right=True)[:, 0].clamp(max=log_probs.shape[-1] - 1)
