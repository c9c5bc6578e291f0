"""The networks of a PPO run: the policy with its value function, the starting policy, the reward model.

With full fine-tuning each has weights of its own. With LoRA there is one backbone: without an adapter it is the
starting policy, and with the reward model's it is the reward model, where that is an adapter of the very same weights.
All of it takes whole batches; how their rows are shared among processes and micro batches is parallel.py's business.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .adapters import REWARD, is_adapter_of
from .batching import Sequences, collate
from .data import Prompt
from .finetuning import prepare
from .models import (
    LanguageModel,
    RewardModel,
    adapted_reward_model,
    hidden_states,
    load_policy,
    load_reward_model,
    packed_log_probs,
    response_log_probs,
    same_tokenizer,
    store_frozen,
)
from .parallel import Placed, loading_device, over_rows, place_module
from .projection import ProjectedRewards
from .sampling import Responses, sample_together
from .spec import HubModel, LocalModel, PpoOptions, PpoSpec


class ActorCritic(nn.Module):
    """The policy and its value function: a linear head on the policy's own backbone, or on a copy of it."""

    def __init__(self, network: PreTrainedModel, separate_critic: bool):
        super().__init__()
        self.network = network
        self.critic = copy.deepcopy(network.base_model) if separate_critic else None
        self.value_head = nn.Linear(network.get_output_embeddings().in_features, 1, device=network.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, batch: Sequences, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values [n] of all response tokens, row by row; a value is read before its token."""
        before = batch.is_response[:, 1:]
        hidden = hidden_states(self.network.base_model, batch.ids)[:, :-1][before]
        log_probs = packed_log_probs(self.network, hidden, batch.ids[:, 1:][before], temperature)
        return log_probs, self.head(hidden) if self.critic is None else self.values(batch)

    def values(self, batch: Sequences) -> Tensor:
        """Values [n] by the separate critic."""
        return self.head(hidden_states(self.critic, batch.ids)[:, :-1][batch.is_response[:, 1:]])

    def head(self, hidden: Tensor) -> Tensor:
        return self.value_head(hidden).squeeze(-1).float()


@dataclass(frozen=True)
class Reference:
    """A policy that is not trained, and what it makes of responses."""

    network: PreTrainedModel
    placed: Placed
    options: PpoOptions

    def log_probs(self, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        """Log-probabilities [n] of all response tokens, row by row."""

        def of_rows(prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
            batch = collate(prompts, responses, self.placed.device)
            return response_log_probs(self.network, batch, self.options.temperature)

        return over_rows(self.placed, of_rows, prompts, responses, self.options.micro_batch_size)


@dataclass(frozen=True)
class Scorer:
    """A reward model as the policy's tokens see it. `context_length`: how many of them it reads."""

    model: RewardModel | ProjectedRewards
    placed: Placed
    context_length: int
    micro_batch_size: int

    def rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        """Rewards [n] of all response tokens, row by row; 0 where none is paid."""
        return over_rows(self.placed, self.model.response_rewards, prompts, responses, self.micro_batch_size)


@dataclass(frozen=True)
class Actor:
    """The policy that is trained, and its value function."""

    model: ActorCritic
    placed: Placed
    eos_token_id: int
    options: PpoOptions

    def sample(self, prompts: list[list[int]], uniforms: Tensor) -> Responses:
        """Responses, with the values of a shared critic."""
        head = self.model.head if self.model.critic is None else None
        temperature = self.options.temperature
        return sample_together(self.placed, self.model.network, prompts, uniforms, self.eos_token_id, temperature, head)

    def values(self, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        """Values [n] by the separate critic of all response tokens, row by row."""

        def of_rows(prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
            return self.model.values(collate(prompts, responses, self.placed.device))

        return over_rows(self.placed, of_rows, prompts, responses, self.options.micro_batch_size)


# What the policy's token ids of a prompt stand for, to a reward model with another tokenizer.
PromptsOf = dict[tuple[int, ...], Prompt]


def load_networks(
    spec: PpoSpec, policy: LanguageModel, prompts_of: PromptsOf, device: torch.device
) -> tuple[Actor, Reference, Scorer]:
    """`policy` is loaded already; what becomes of it is in its place."""
    options = spec.options
    prepare(policy, options, spec.seed, device)
    shares_backbone = bool(options.lora_rank) and is_adapter_of(spec.reward_model, policy.folder)
    adapted = adapted_reward_model(spec.reward_model, policy.network.base_model, device) if shares_backbone else None
    model = ActorCritic(policy.network, options.critic == "separate")
    placed = place_module(model, options.precision, device)
    actor = Actor(model, placed, policy.card.eos_token_id, options)
    if options.lora_rank:
        reference = Reference(policy.network, placed.with_adapter(None), options)
    else:
        reference = load_reference(spec.policy, options, device)
    if not adapted:
        return actor, reference, load_scorer(spec.reward_model, policy, prompts_of, options, device)
    reward_model, card, _ = adapted
    scorer = Scorer(reward_model, placed.with_adapter(REWARD), card.context_length, options.micro_batch_size)
    return actor, reference, scorer


def load_scorer(
    folder: Path, policy: LanguageModel, prompts_of: PromptsOf, options: PpoOptions, device: torch.device
) -> Scorer:
    """A reward model with weights of its own; with another tokenizer than the policy's, too."""
    model, card, codec = load_reward_model(folder, loading_device(device))
    store_frozen(model, options.precision)
    placed = place_module(model, options.precision, device)
    if same_tokenizer(policy.folder, folder):
        return Scorer(model, placed, card.context_length, options.micro_batch_size)
    projected = ProjectedRewards(model, codec, card.context_length, policy.codec, lambda ids: prompts_of[tuple(ids)])
    return Scorer(projected, placed, policy.card.context_length, options.micro_batch_size)


def load_reference(source: LocalModel | HubModel, options: PpoOptions, device: torch.device) -> Reference:
    network = load_policy(source, loading_device(device)).network.requires_grad_(False)
    store_frozen(network, options.precision)
    return Reference(network, place_module(network, options.precision, device), options)
