"""How much memory a run takes, by arithmetic: pure functions, and `python -m finegrain_trainer.memory` prints the table
of docs/memory.md.

Counted is what grows with the model and the batch. The CUDA context, fragmentation and buffers of communication come on
top: about 2 GB, and a tenth of the sum.
"""

from dataclasses import dataclass, replace

from .failures import OutOfMemory
from .spec import DpoOptions, PpoOptions, RewardOptions, SftOptions

GB = 1e9
# At most this many logits exist at a time; in float32, with their gradient and what softmax keeps.
LOGITS_AT_A_TIME = 1 << 26
LOGIT_BYTES = 12

Options = SftOptions | RewardOptions | DpoOptions | PpoOptions


@dataclass(frozen=True)
class Shape:
    """A Llama-like network: three matrices in its MLP, two norms a layer, no biases."""

    hidden: int
    layers: int
    mlp: int
    key_values: int
    vocabulary: int
    tied: bool

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers in one layer."""
        attention = [(self.hidden, self.hidden), (self.hidden, self.key_values)]
        return attention * 2 + [(self.hidden, self.mlp), (self.hidden, self.mlp), (self.mlp, self.hidden)]

    @property
    def layer_parameters(self) -> int:
        return sum(inputs * outputs for inputs, outputs in self.matrices) + 2 * self.hidden

    @property
    def parameters(self) -> int:
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + self.hidden + embeddings

    def adapter_parameters(self, rank: int) -> int:
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.matrices)


# Llama 3.2 1B, Llama 2 7B and 13B.
SHAPES = {
    "1B": Shape(2048, 16, 8192, 512, 128256, tied=True),
    "7B": Shape(4096, 32, 11008, 4096, 32000, tied=False),
    "13B": Shape(5120, 40, 13824, 5120, 32000, tied=False),
}


def standing(
    parameters: int, trained: int, options: Options, processes: int = 1, shared_reward: bool = True
) -> dict[str, float]:
    """Bytes in each process that are there whatever the batch is: weights, gradients, moments, frozen networks.

    `parameters`: of the model; `trained`: those of its adapters with LoRA, else all of them. `shared_reward`: with LoRA
    the reward model is an adapter of the policy's base, and takes next to nothing.
    """
    stored = 2 if options.precision == "bf16" else 4
    is_ppo = isinstance(options, PpoOptions)
    if options.lora_rank:
        frozen = parameters * (1 + (is_ppo and not shared_reward))
    else:
        # the starting policy, and in PPO the reward model
        frozen = parameters * (2 * is_ppo + isinstance(options, DpoOptions))
        trained *= 1 + (is_ppo and options.critic == "separate")
    return {
        "trained weights": 4 * trained / processes,
        "gradients": 4 * trained / processes,
        "moments of Adam": 8 * trained / processes,
        "frozen weights": stored * frozen / processes,
    }


def passing(shape: Shape, options: Options, rows: int, tokens: int, processes: int = 1) -> dict[str, float]:
    """Bytes in each process while a step is computed.

    `rows`: sequences that are computed at a time, a micro batch (of pairs twice as many: both versions);
    `tokens`: of one of them, prompt and response.
    """
    stored = 2 if options.precision == "bf16" else 4
    places = rows * tokens
    # what autograd keeps of a layer: both norms, queries, keys, values, what attention gives, four of the MLP; and of
    # what goes into a product its own copy in bfloat16
    attention_and_mlp = 2 * shape.hidden + 2 * shape.key_values + 4 * shape.mlp
    if options.precision == "bf16":
        of_layer = 4 * 4 * shape.hidden + 2 * (5 * shape.hidden + attention_and_mlp)
    else:
        of_layer = 4 * (6 * shape.hidden + attention_and_mlp)
    if options.gradient_checkpointing:
        activations = places * (4 * shape.hidden * shape.layers + of_layer)
    else:
        activations = places * of_layer * shape.layers
    logits = min(places * shape.vocabulary, LOGITS_AT_A_TIME) * LOGIT_BYTES
    largest = max(shape.layer_parameters, shape.parameters - shape.layers * shape.layer_parameters)
    gathered = stored * 2 * largest  # the layer at hand and the next one
    return {
        "activations": activations,
        "logits": 0.0 if isinstance(options, RewardOptions) else logits,
        "weights gathered or cast": gathered if processes > 1 else cast_weights(shape, options),
    }


def decoding(shape: Shape, options: PpoOptions, tokens: int, processes: int = 1) -> dict[str, float]:
    """Bytes in each process while PPO rolls out its batch: no activations then."""
    stored = 2 if options.precision == "bf16" else 4
    rows = -(-options.batch_size // processes)
    cache = rows * tokens * shape.layers * 2 * shape.key_values * stored
    return {
        "keys and values": cache,
        "weights gathered or cast": stored * shape.parameters if processes > 1 else cast_weights(shape, options),
    }


def cast_weights(shape: Shape, options: Options) -> float:
    """What autocast keeps while a micro batch, or decoding, goes on: a copy of each trained weight in bfloat16."""
    return 2.0 * shape.parameters if options.precision == "bf16" and not options.lora_rank else 0.0


def peak(shape: Shape, options: Options, tokens: int, processes: int = 1, shared_reward: bool = True) -> float:
    """Bytes in the process with most of them; micro batches of `options.micro_batch_size` rows, or the whole step's."""
    step_rows = options.batch_size
    if isinstance(options, PpoOptions):
        step_rows = -(-options.batch_size // options.minibatches)
    rows = options.micro_batch_size or -(-step_rows // processes)
    if isinstance(options, RewardOptions | DpoOptions):
        rows *= 2
    passes = [sum(passing(shape, options, rows, tokens, processes).values())]
    if isinstance(options, PpoOptions):
        passes.append(sum(decoding(shape, options, tokens, processes).values()))
    trained = shape.adapter_parameters(options.lora_rank) if options.lora_rank else shape.parameters
    return sum(standing(shape.parameters, trained, options, processes, shared_reward).values()) + max(passes)


def check_fits(parameters: int, trained: int, options: Options, processes: int, available: int) -> None:
    """Raises OutOfMemory when not even what every batch needs would fit into `available` bytes of each process."""
    parts = standing(parameters, trained, options, processes)
    needed = sum(parts.values())
    if needed <= available:
        return
    told = ", ".join(f"{name} {value / GB:.1f}" for name, value in parts.items() if value)
    raise OutOfMemory(
        f"{parameters / 1e9:.1f} billion parameters take {needed / GB:.1f} GB before any batch ({told}), and the GPU "
        f"has {available / GB:.1f} GB. lora_rank, precision bf16 or more GPUs (FINEGRAIN_TRAINER_PROCESSES) take less "
        "of each; docs/memory.md has the arithmetic"
    )


def table() -> str:
    """In GB (1e9 bytes) for each GPU: 1,024 tokens a sequence, one in a micro batch, recomputed layers, LoRA of rank
    16; PPO with 64 responses a step, a shared critic and, with LoRA, a shared reward model."""
    columns = ["model", "training", "precision", "sft, 1 GPU", "4 GPUs", "reward, 1 GPU", "4 GPUs"]
    columns += ["ppo, 1 GPU", "4 GPUs", "8 GPUs"]
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    for name, shape in SHAPES.items():
        for rank in (0, 16):
            for precision in ("fp32", "bf16"):
                cells = []
                for options, counts in ((SftOptions(), (1, 4)), (RewardOptions(), (1, 4)), (PpoOptions(), (1, 4, 8))):
                    chosen = replace(
                        options, micro_batch_size=1, gradient_checkpointing=True, precision=precision, lora_rank=rank
                    )
                    cells += [f"{peak(shape, chosen, 1024, processes) / GB:.0f}" for processes in counts]
                lines.append(f"| {name} | {'LoRA' if rank else 'full'} | {precision} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
