"""Model folders (config.json, model.safetensors, tokenizer.json, finegrain.json) and the networks in them.

Any Hugging Face causal language model will do. Weights come from safetensors only, in float32, and code that comes with
a model is never run. Dropout is off everywhere: a probability ratio must be 1 before the first update.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute_in_backward
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .adapters import load_reward_adapter
from .batching import Sequences, collate
from .data import file_digest
from .failures import BadSpec
from .prompt_format import PromptFormat, TextCodec, load_tokenizer, plain_format
from .rl_math import ensemble_reward, last_places, survival_reward
from .spec import TOKEN_LOSSES, HubModel, LocalModel, RewardOptions, ScratchModel
from .tokenizer import BOS, EOS, PAD, chat_format, train_tokenizer

# At most this many logits exist at a time (256 MiB of float32).
LOGITS_AT_A_TIME = 1 << 26
HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]


@dataclass(frozen=True)
class ModelCard:
    """finegrain.json: what one must know to speak to a model."""

    role: str
    vocab_size: int
    context_length: int
    eos_token_id: int
    prompt_format: PromptFormat

    def to_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "role": self.role,
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
            "eos_token_id": self.eos_token_id,
            "prompt_format": self.prompt_format.to_json(),
        }


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, its card, its text codec, and the folder that its tokenizer files are copied from."""

    network: PreTrainedModel
    card: ModelCard
    codec: TextCodec
    folder: Path


# ---- loading and saving policies


def locate(source: LocalModel | HubModel) -> Path:
    """The folder of a model; the only place that may reach the network, and only for a spec that names a hub."""
    if isinstance(source, LocalModel):
        return source.path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source.hub, revision=source.revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise BadSpec(f"the hub has no {source.hub} at {source.revision}: {error}") from error


def load_policy(source: LocalModel | HubModel, device: torch.device) -> LanguageModel:
    folder = locate(source)
    try:
        network = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadSpec(f"{folder}: is not a causal language model in safetensors: {error}") from error
    network = network.to(device).eval()
    _check_output_layer(network, folder)
    card, codec = _card_and_codec(folder, network.config)
    return LanguageModel(network, card, codec, folder)


def scratch_policy(
    shape: ScratchModel, texts: Iterator[str], seed: int, workdir: Path, device: torch.device
) -> LanguageModel:
    """A Llama-shaped network with random weights and a tokenizer trained on `texts`, which is kept in `workdir`."""
    tokenizer = train_tokenizer(texts, shape.vocab_size)
    folder = workdir / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=shape.hidden_size,
        intermediate_size=-(-shape.hidden_size * 8 // 48) * 16,  # 8/3 of the width, in sixteens
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        max_position_embeddings=shape.context_length,
        initializer_range=0.5 / shape.hidden_size**0.5,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(device).eval()
    card = ModelCard("policy", config.vocab_size, shape.context_length, EOS, chat_format())
    return LanguageModel(network, card, TextCodec(tokenizer, card.prompt_format, EOS), folder)


def save_policy(model: LanguageModel, folder: Path) -> None:
    model.network.save_pretrained(folder, max_shard_size="1TB")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (model.folder / name).is_file():
            shutil.copyfile(model.folder / name, folder / name)
    write_json(folder / "finegrain.json", {**model.card.to_json(), "role": "policy"})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def same_tokenizer(folder: Path, other: Path) -> bool:
    return file_digest(folder / "tokenizer.json") == file_digest(other / "tokenizer.json")


def check_tokenizer(policy: Path, other: Path, name: str) -> None:
    """Raises BadSpec unless both folders have the same tokenizer.json; `name`: the key of the other one in the spec."""
    if not same_tokenizer(policy, other):
        raise BadSpec(f"{name}: has another tokenizer than the policy; both must read the same token ids")


def weights_digest(folder: Path) -> dict[str, str]:
    """Digests of the files that decide what a model folder computes."""
    names = sorted(p.name for p in folder.iterdir() if p.suffix == ".safetensors")
    names += [n for n in ("config.json", "tokenizer.json", "finegrain.json") if (folder / n).is_file()]
    return {name: file_digest(folder / name) for name in names}


def _card_and_codec(folder: Path, config: Any) -> tuple[ModelCard, TextCodec]:
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    path = folder / "finegrain.json"
    if path.is_file():
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            card = ModelCard(
                raw["role"],
                raw["vocab_size"],
                raw["context_length"],
                raw["eos_token_id"],
                PromptFormat.from_json(raw["prompt_format"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise BadSpec(f"{path}: is not a model card: {error!r}") from error
    else:
        eos = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
        if eos is None:
            raise BadSpec(f"{folder}/config.json: eos_token_id: is required")
        card = ModelCard(
            "policy",
            config.vocab_size,
            config.max_position_embeddings,
            eos,
            plain_format(tokenizer, config.bos_token_id),
        )
    _check_vocabulary(card, tokenizer, config.get_text_config().vocab_size, folder)
    return card, TextCodec(tokenizer, card.prompt_format, card.eos_token_id)


def _check_vocabulary(card: ModelCard, tokenizer: Tokenizer, rows: int, folder: Path) -> None:
    """Raises BadSpec where a token id could come up for which the model has no embedding, of which it has `rows`.

    A tokenizer may have further special tokens (a padding token often is one): no text has their ids.
    """
    special = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    entries = max((id for id in tokenizer.get_vocab().values() if id not in special), default=0) + 1
    if entries > rows:
        raise BadSpec(
            f"{folder}/tokenizer.json: has {entries} entries, but the model has embeddings for {rows} (vocab_size in "
            "config.json): the two do not belong together"
        )
    if card.vocab_size > rows:
        raise BadSpec(f"{folder}/finegrain.json: vocab_size: is {card.vocab_size}, but the model has {rows} embeddings")
    roles = card.prompt_format.roles.values()
    ids = [card.eos_token_id, *card.prompt_format.bos, *card.prompt_format.generation_prefix]
    ids += [id for role in roles for id in role.prefix + role.suffix]
    if max(ids) >= rows:
        raise BadSpec(
            f"{folder}: its prompt format or EOS is the token {max(ids)}, but the model has {rows} embeddings"
        )


# ---- hidden states, logits, log-probabilities


def hidden_states(backbone: PreTrainedModel, ids: Tensor) -> Tensor:
    """Last hidden states [batch, time, hidden] of sequences padded on the right."""
    with recomputing_layers(backbone):
        return backbone(input_ids=ids, use_cache=False).last_hidden_state


def recompute_layers(backbone: PreTrainedModel, folder: Path) -> None:
    """From here on backward computes each layer anew (gradient checkpointing), and forward keeps only what it is given.

    Raises BadSpec for an architecture that cannot do that.
    """
    try:
        backbone.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise BadSpec(f"hyperparameters.gradient_checkpointing: {folder}: {error}") from error
    for layer in backbone.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            for name, value in vars(layer).items():
                if "dropout" in name and isinstance(value, float):
                    setattr(layer, name, 0.0)  # of the layer itself, which will say that it is training


@contextmanager
def recomputing_layers(backbone: PreTrainedModel) -> Iterator[None]:
    """transformers checkpoints a layer only while it is in training mode; what is inside it stays in eval mode, as
    everywhere, and decoding needs its caches and is left alone."""
    layers = []
    if torch.is_grad_enabled() and backbone.is_activation_checkpointing:
        layers = [layer for layer in backbone.modules() if isinstance(layer, GradientCheckpointingLayer)]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def store_frozen(network: nn.Module, precision: str) -> None:
    """Keeps the weights that are not trained in the precision that they are computed in; buffers stay as they are."""
    if precision == "bf16":
        for parameter in network.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)


def next_token_logits(network: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits [..., vocab], in float32, from hidden states [..., hidden], with what some architectures do to them
    afterwards."""
    logits = network.get_output_embeddings()(hidden).float()
    config = network.config
    if getattr(config, "logit_scale", None):  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None):  # Granite
        logits = logits / config.logits_scaling
    if getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
    return logits


def packed_log_probs(network: PreTrainedModel, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities [n] of `targets` [n] given the hidden states [n, hidden] of the places before them.

    Logits exist only for these places, and only LOGITS_AT_A_TIME of them; beyond that, backward computes them anew.
    """

    def log_probs(hidden: Tensor, targets: Tensor) -> Tensor:
        return -F.cross_entropy(next_token_logits(network, hidden) / temperature, targets, reduction="none")

    rows = max(1, LOGITS_AT_A_TIME // network.config.vocab_size)
    if len(targets) <= rows:
        return log_probs(hidden, targets)
    return torch.cat(
        [
            recompute_in_backward(log_probs, h, t, use_reentrant=False)
            for h, t in zip(hidden.split(rows), targets.split(rows), strict=True)
        ]
    )


def response_log_probs(network: PreTrainedModel, batch: Sequences, temperature: float = 1.0) -> Tensor:
    """Log-probabilities [n] of all response tokens of a batch, row by row."""
    before = batch.is_response[:, 1:]
    hidden = hidden_states(network.base_model, batch.ids)[:, :-1][before]
    return packed_log_probs(network, hidden, batch.ids[:, 1:][before], temperature)


@torch.no_grad()
def _check_output_layer(network: PreTrainedModel, folder: Path) -> None:
    """next_token_logits must be what the architecture itself computes, or every log-probability would be wrong."""
    ids = torch.arange(4, device=network.device)[None] % network.config.vocab_size
    ours = next_token_logits(network, hidden_states(network.base_model, ids))
    if not torch.allclose(ours, network(input_ids=ids, use_cache=False).logits, atol=1e-4, rtol=1e-4):
        raise BadSpec(f"{folder}: {type(network).__name__} treats its logits in a way that is not supported")


# ---- reward models


class RewardModel(nn.Module):
    """A backbone and scalar heads; z_t is read at token t itself, so no reward depends on a later token.

    What z means is the loss's: see TOKEN_LOSSES and SEQUENCE_LOSSES. Parameter names are those of Hugging Face's
    ...ForTokenClassification (`model.*`, `score.*`), so that other programs can open the folder.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        loss: str,
        clip: float = 0.0,
        heads: int = 1,
        uncertainty_penalty: float = 0.0,
    ):
        super().__init__()
        self.model = backbone
        self.score = nn.Linear(backbone.config.hidden_size, heads, device=backbone.device)
        self.loss = loss
        self.clip = clip
        self.uncertainty_penalty = uncertainty_penalty

    @property
    def role(self) -> str:
        return "token_reward" if self.loss in TOKEN_LOSSES else "sequence_reward"

    @property
    def heads(self) -> int:
        return self.score.out_features

    def logits(self, ids: Tensor) -> Tensor:
        """z [batch, time, heads]. survival: the log-odds that an annotator edits the token at this place away."""
        return self.score(hidden_states(self.model, ids)).float()

    def head_rewards(self, ids: Tensor) -> Tensor:
        """What each head alone would reward: [batch, time, heads]."""
        z = self.logits(ids)
        return survival_reward(z, self.clip) if self.loss == "survival" else z

    def forward(self, input_ids: Tensor) -> Tensor:
        """Rewards r [batch, time] of ids [batch, time] padded on the right; a sequence is paid the one at its end."""
        rewards = self.head_rewards(input_ids)
        if self.heads == 1:
            return rewards.squeeze(-1)
        together = ensemble_reward(rewards, self.uncertainty_penalty)
        return together.clamp(min=self.clip) if self.loss == "survival" else together

    def paid(self, mask: Tensor) -> Tensor:
        """Which tokens of responses `mask` [batch, time] have a reward: all of them, or the last of each row."""
        return mask if self.role == "token_reward" else last_places(mask)

    @torch.no_grad()
    def response_rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        """Rewards [n] of all response tokens of a batch, row by row; 0 where none is paid."""
        batch = collate(prompts, responses, self.score.weight.device)
        return (self(batch.ids) * self.paid(batch.is_response))[batch.is_response]

    @torch.no_grad()
    def response_readings(self, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        """As response_rewards, with what a sequence model would pay if the response ended at each token."""
        batch = collate(prompts, responses, self.score.weight.device)
        return self(batch.ids)[batch.is_response]


def new_reward_model(base: LanguageModel, loss: str, options: RewardOptions, seed: int) -> RewardModel:
    """A reward model on the backbone of `base`; `survival` starts at p = sigmoid(-2), about the share of bad tokens."""
    model = RewardModel(base.network.base_model, loss, options.reward_clip, options.heads, options.uncertainty_penalty)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.score.weight.copy_(torch.randn(model.score.weight.shape, generator=generator) * 0.01)
        model.score.bias.fill_(-2.0 if loss == "survival" else 0.0)
    return model


def save_reward_model(model: RewardModel, base: LanguageModel, folder: Path, onnx: dict[str, Any] | None) -> None:
    """`onnx`: what export_onnx says of the graph in the folder."""
    config = model.model.config
    name = type(base.network).__name__.replace("ForCausalLM", "ForTokenClassification")
    config.update({"architectures": [name], "num_labels": model.heads})
    config.save_pretrained(folder)
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(base.folder / "tokenizer.json", folder / "tokenizer.json")
    reward = {"loss": model.loss, **({"clip": model.clip} if model.loss == "survival" else {})}
    if model.heads > 1:
        reward |= {"heads": model.heads, "uncertainty_penalty": model.uncertainty_penalty}
    write_json(
        folder / "finegrain.json",
        {
            **base.card.to_json(),
            "role": model.role,
            "reward": reward,
            **({"onnx": onnx} if onnx else {}),
        },
    )


def load_reward_model(folder: Path, device: torch.device) -> tuple[RewardModel, ModelCard, TextCodec]:
    try:
        config, reward = _reward_config(folder)
        model = RewardModel(AutoModel.from_config(config, dtype=torch.float32), **reward)
        tensors = load_file(folder / "model.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(tensors.pop(name))
        if tensors:
            raise BadSpec(f"{folder}/model.safetensors: unknown tensor {min(tensors)}")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise BadSpec(f"{folder}: is not a reward model: {error!r}") from error
    return model.to(device).eval().requires_grad_(False), *_card_and_codec(folder, config)


def adapted_reward_model(
    folder: Path, backbone: PreTrainedModel, device: torch.device
) -> tuple[RewardModel, ModelCard, TextCodec]:
    """The reward model in `folder` as the adapter REWARD on `backbone`, with a scalar head of its own."""
    try:
        config, reward = _reward_config(folder)
        model = RewardModel(backbone, **reward)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadSpec(f"{folder}: is not a reward model: {error!r}") from error
    head = load_reward_adapter(backbone, folder)
    model.score.load_state_dict({name.removeprefix("score."): tensor for name, tensor in head.items()})
    model.score.to(device).requires_grad_(False)
    return model.eval(), *_card_and_codec(folder, config)


def _reward_config(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Of a reward model's folder: its config, and what finegrain.json says of its rewards."""
    raw = json.loads((folder / "finegrain.json").read_text(encoding="utf-8"))
    if raw["role"] not in ("token_reward", "sequence_reward"):
        raise BadSpec(f"{folder}: is a {raw['role']} model; a reward model is needed")
    return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True), raw["reward"]
