"""Fine-grained PPO: every token is paid its own reward, (r_t - mu) / s - beta * KL_t (ALGORITHM 3).

With a sequence reward model the same loop is the baseline: its reward is paid on the last token. Both have the same
total scale. One step: roll out, score, advantages, a few passes of clipped updates. Left out: learned reward
normalisation, entropy bonus, early stopping on KL; none was needed, each hides something.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .batching import collate, length_sorted, unpack
from .checkpoint import CheckpointStore, restore_training, training_tensors
from .data import PromptRow, file_digest, read_prompts
from .failures import BadSpec, Interrupted, Unstable
from .finetuning import finish
from .generate import prompt_token_ids, response_columns
from .models import LanguageModel, check_tokenizer, load_policy, locate, save_policy, weights_digest
from .optimization import adamw, descend
from .parallel import agreed, is_first, loading_device, parts
from .ppo_networks import Actor, ActorCritic, Reference, Scorer, load_networks, load_reference
from .protocol import Reporter, StopRequest
from .rl_math import (
    adapted_beta,
    explained_variance,
    generalised_advantages,
    leave_one_out_advantages,
    masked_mean,
    mean,
    policy_loss,
    shaped_rewards,
    value_loss,
    whiten,
)
from .rollouts import rollout_rows, save_rollouts
from .sampling import Responses, response_kl, row_uniforms
from .spec import PpoOptions, PpoSpec
from .workdir import finish_file, finish_folder, run_identity

# mu follows the policy: mu <- (1 - MU_RATE) mu + MU_RATE * batch mean.
MU_RATE = 0.2
# Alarms: nats of KL per token, and mean length against the starting policy's.
HIGH_KL_PER_TOKEN = 0.3
LENGTH_DRIFT = 0.3


def run(spec: PpoSpec, workdir: Path, device: torch.device, reporter: Reporter, stop: StopRequest) -> dict:
    options = spec.options
    policy = load_policy(spec.policy, loading_device(device))
    check_tokenizer(policy.folder, spec.reward_model, "reward_model")
    actor, reference, scorer = load_networks(spec, policy, device)
    context = min(policy.card.context_length, scorer.card.context_length)
    rows = read_prompts(spec.prompts)
    prompts = [policy.codec.prompt_ids(row.prompt) for row in rows]
    row_of = {tuple(ids): row for ids, row in zip(prompts, rows, strict=True)}  # equal prompts are one to the policy
    prompts = fitting_prompts(prompts, context - options.max_new_tokens, reporter)

    evaluation = load_evaluation(spec, policy, reference, device) if spec.evaluation else None
    optimizer = adamw(actor.model, options.learning_rate, options.weight_decay)
    generator = torch.Generator().manual_seed(spec.seed)
    identity = run_identity(
        spec,
        rows=file_digest(spec.prompts),
        base=weights_digest(policy.folder),
        reward=weights_digest(spec.reward_model),
        **(evaluation.identity if evaluation else {}),
    )
    store = CheckpointStore(workdir, identity, reporter)
    if checkpoint := store.latest(required=spec.finish_at_checkpoint):
        restore_training(actor.model, optimizer, checkpoint.tensors)
        generator.set_state(checkpoint.tensors["random.generator"])
        scale, beta = RewardScale(**checkpoint.state["scale"]), checkpoint.state["beta"]
        step, last = checkpoint.step, checkpoint.state["metrics"]
        evaluations = {int(at): rows for at, rows in checkpoint.state["evaluations"].items()}
    else:
        reporter.progress(0, options.steps, "measure the starting policy")
        scale = starting_scale(actor, scorer, prompts, generator, options)
        beta = options.beta
        step, last, evaluations = 0, {}, {}
    last_step = step if spec.finish_at_checkpoint else options.steps

    def evaluate() -> None:
        if evaluation and step not in evaluations and (step % evaluation.every == 0 or step == last_step):
            reporter.progress(step, last_step, "evaluate")
            evaluations[step], values = evaluation.run(actor, scorer, spec.seed, options)
            reporter.metrics(step, values)

    by_critic = options.advantage == "gae"
    for batch_prompts in prompt_batches(prompts, options, spec.seed, step, last_step):
        evaluate()
        started = time.monotonic()

        # 1. Roll out: ids, log-probabilities and values as decoding saw them.
        uniforms = torch.rand(len(batch_prompts), options.max_new_tokens, generator=generator)
        rollout = actor.sample(batch_prompts, uniforms)
        mask, responses = rollout.mask, rollout.lists()

        # 2. Score: token rewards and KL against the starting policy, all [batch, time].
        with torch.no_grad():
            shared = options.critic == "shared"
            values = rollout.values if shared else unpack(actor.values(batch_prompts, responses), mask)
            rewards = unpack(scorer.rewards(batch_prompts, responses), mask)
            kl = (rollout.log_probs - unpack(reference.log_probs(batch_prompts, responses), mask)) * mask
            paid = scorer.model.paid(mask)
            if options.mu == "batch":
                scale.mu = (1 - MU_RATE) * scale.mu + MU_RATE * masked_mean(rewards, paid).item()
            shaped = shaped_rewards(
                rewards,
                paid,
                kl,
                mask,
                ~rollout.ended,
                mu=scale.mu,
                scale=scale.s,
                beta=beta,
                truncation_cost=options.truncation_cost,
                placement=options.reward_placement,
            )

            # 3. Advantages.
            if by_critic:
                advantages = generalised_advantages(shaped, values, mask, options.gamma, options.gae_lambda)
            else:
                advantages = leave_one_out_advantages(shaped, mask, options.samples_per_prompt)
            returns = advantages + values
            whitened = whiten(advantages, mask)

        # 4. Update.
        updates = []
        experience = Experience(batch_prompts, responses, mask, rollout.log_probs, values, returns, whitened)
        for _ in range(options.epochs):
            order = torch.randperm(len(batch_prompts), generator=generator)
            for rows in order.tensor_split(options.minibatches):
                losses = partial(minibatch_losses, actor.model, experience, options, int(mask[rows].sum()))
                micro_batches = parts(rows.tolist(), options.micro_batch_size)
                figures = descend(actor.placed, optimizer, micro_batches, losses, options.max_grad_norm, step + 1)
                updates.append({name: value for name, value in figures.items() if name != "loss"})
        step += 1

        # 5. Report. The sum of raw rewards is always there: shaped ones hide a policy that games them.
        last = rollout_metrics(rollout, rewards, kl, values, returns)
        last |= {name: sum(u[name] for u in updates) / len(updates) for name in updates[0]}
        last |= {"mu": scale.mu, "s": scale.s, "beta": beta}
        if options.kl_target:
            beta = adapted_beta(
                beta, last["kl_per_response"], options.kl_target, options.batch_size, options.kl_horizon
            )
        reporter.progress(step, options.steps, "train")
        speed = {
            "tokens_per_second": mask.sum().item() / (time.monotonic() - started)
        }  # of the machine, not of the run
        reporter.metrics(step, last | speed)
        raise_alarms(reporter, step, last, scale)
        if options.rollouts_every and step % options.rollouts_every == 0:
            columns = {
                "rewards": rewards,
                "kl": kl,
                "values": values,
                "advantages": advantages,
                "logprobs": rollout.log_probs,
            }
            shown = [row_of[tuple(ids)] for ids in batch_prompts]
            save_rollouts(workdir, step, rollout_rows(policy, shown, responses, columns), reporter)
        stopping = agreed(stop)
        if step % options.checkpoint_every == 0 or step == options.steps or stopping:
            tensors = {**training_tensors(actor.model, optimizer), "random.generator": generator.get_state()}
            state = {"scale": vars(scale), "beta": beta, "metrics": last, "evaluations": evaluations}
            store.save(step, tensors, state)
        if stopping:
            raise Interrupted

    evaluate()
    if evaluation:
        if is_first():
            finish_file(workdir, "evaluations.ndjson", "".join(evaluation.lines(evaluations, options.batch_size)))
        reporter.artifact("evaluations.ndjson", "output/evaluations.ndjson", "application/x-ndjson")
    if finished := finish(policy, options):
        with finish_folder(workdir, "model") as folder:
            save_policy(finished.model, folder)
            finished.save_adapter(folder, policy.network.base_model_prefix)
    reporter.model("policy", "output/model", last)
    return {
        "steps": last_step,
        "prompts": len(prompts),
        "start_reward": scale.start_reward,
        "start_length": scale.start_length,
        **last,
    }


def fitting_prompts(prompts: list[list[int]], room: int, reporter: Reporter) -> list[list[int]]:
    """The prompts of at most `room` tokens, which leave a response its max_new_tokens."""
    fitting = [ids for ids in prompts if len(ids) <= room]
    if not fitting:
        raise BadSpec(f"hyperparameters.max_new_tokens: no prompt leaves that much room; they may have {room} tokens")
    if len(fitting) < len(prompts):
        left_out = len(prompts) - len(fitting)
        reporter.log(f"{left_out} of {len(prompts)} prompts have over {room} tokens and are left out", level="warning")
    return fitting


@dataclass(frozen=True)
class PolicyEvaluation:
    """What the policy says to prompts of its own at some steps: the learning curve that a judge can rule on.

    Each row has its own random numbers, the same at every step, so the curve is smooth and training sees none of it.
    `references`: column -> the policy that KL is measured against.
    """

    rows: list[PromptRow]
    prompts: list[list[int]]
    references: dict[str, Reference]
    model: LanguageModel
    every: int
    identity: dict[str, Any]

    @torch.no_grad()
    def run(self, actor: Actor, scorer: Scorer, seed: int, options: PpoOptions) -> tuple[list[dict], dict[str, float]]:
        """Ids, KL and reward of a response to each prompt, in the order of the prompts; and their means as metrics."""
        results: list[dict] = [{} for _ in self.rows]
        for batch in length_sorted([len(ids) for ids in self.prompts], options.batch_size):
            prompts = [self.prompts[row] for row in batch]
            uniforms = torch.stack([row_uniforms(seed, row, options.max_new_tokens) for row in batch])
            sampled = actor.sample(prompts, uniforms)
            responses = sampled.lists()
            columns = {
                name: response_kl(sampled, reference.log_probs(prompts, responses))
                for name, reference in self.references.items()
            }
            columns["reward"] = unpack(scorer.rewards(prompts, responses), sampled.mask).sum(1)
            for place, row in enumerate(batch):
                values = {name: column[place].item() for name, column in columns.items()}
                results[row] = {"ids": responses[place], **values}
        count = len(results)
        return results, {
            "evaluation_reward_sum": sum(r["reward"] for r in results) / count,
            "evaluation_kl_per_response": sum(r["kl"] for r in results) / count,
            "evaluation_length": sum(len(r["ids"]) for r in results) / count,
        }

    def lines(self, evaluations: dict[int, list[dict]], batch_size: int) -> Iterator[str]:
        """NDJSON: a row for each prompt of each evaluation."""
        for step in sorted(evaluations):
            for row, result in zip(self.rows, evaluations[step], strict=True):
                head = {"step": step, "samples": step * batch_size, "id": row.id, "prompt": row.raw_prompt}
                values = {name: value for name, value in result.items() if name != "ids"}
                line = head | response_columns(self.model, result["ids"]) | values
                yield json.dumps(line, ensure_ascii=False) + "\n"


def load_evaluation(
    spec: PpoSpec, policy: LanguageModel, reference: Reference, device: torch.device
) -> PolicyEvaluation:
    wanted = spec.evaluation
    identity = {"evaluation_rows": file_digest(wanted.prompts), "evaluation_every": wanted.options.every}
    references = {"kl": reference}
    if wanted.kl_reference is not None:
        folder = locate(wanted.kl_reference)
        check_tokenizer(policy.folder, folder, "evaluation.kl_reference")
        references["kl_to_reference"] = load_reference(wanted.kl_reference, spec.options, device)
        identity["kl_reference"] = weights_digest(folder)
    rows = read_prompts(wanted.prompts)
    prompts = prompt_token_ids(policy, rows, spec.options.max_new_tokens, wanted.prompts.name)
    return PolicyEvaluation(rows, prompts, references, policy, wanted.options.every, identity)


@dataclass(frozen=True)
class Experience:
    """What a step learns from; tensors are [batch, time]."""

    prompts: list[list[int]]
    responses: list[list[int]]
    mask: Tensor
    log_probs: Tensor
    values: Tensor
    returns: Tensor
    advantages: Tensor


def minibatch_losses(
    actor: ActorCritic, experience: Experience, options: PpoOptions, tokens: int, rows: list[int]
) -> dict[str, Tensor]:
    """What some rows add to the means over the `tokens` of their minibatch.

    `approx_kl` is the k3 estimate of how far the policy has moved from the rollout's.
    """
    keep = experience.mask[rows]
    prompts, responses = ([column[row] for row in rows] for column in (experience.prompts, experience.responses))
    log_probs, values = actor(collate(prompts, responses, keep.device), options.temperature)
    log_ratio = log_probs - experience.log_probs[rows][keep]
    on_policy = policy_loss(log_ratio, experience.advantages[rows][keep], options.clip, tokens)
    old_values, returns = experience.values[rows][keep], experience.returns[rows][keep]
    on_values = value_loss(values, old_values, returns, options.value_clip, tokens)
    moved = log_ratio.detach()
    return {
        "loss": on_policy + options.value_coefficient * on_values if options.advantage == "gae" else on_policy,
        "policy_loss": on_policy,
        "value_loss": on_values,
        "clip_fraction": mean(((moved.exp() - 1).abs() > options.clip).float(), tokens),
        "approx_kl": mean(moved.exp() - 1 - moved, tokens),
    }


@dataclass
class RewardScale:
    """How raw rewards become PPO's: (r - mu) / s; and what the starting policy reached, for the alarms."""

    mu: float
    s: float
    start_reward: float  # mean raw sum
    start_length: float


def starting_scale(
    actor: Actor,
    scorer: Scorer,
    prompts: list[list[int]],
    generator: torch.Generator,
    options: PpoOptions,
) -> RewardScale:
    """s is the standard deviation of the sequence sums of r - mu over samples of the starting policy."""
    sums, lengths, paid = [], [], []
    for start in range(0, options.scale_samples, options.batch_size):
        count = min(options.batch_size, options.scale_samples - start)
        batch = [prompts[(start + i) % len(prompts)] for i in range(count)]
        uniforms = torch.rand(count, options.max_new_tokens, generator=generator)
        rollout = actor.sample(batch, uniforms)
        rewards = unpack(scorer.rewards(batch, rollout.lists()), rollout.mask)
        sums.append(rewards.sum(1).double().cpu())
        lengths.append(rollout.mask.sum(1).double().cpu())
        paid.append(scorer.model.paid(rollout.mask).sum(1).double().cpu())
    sum_per_row, length, paid_per_row = torch.cat(sums), torch.cat(lengths), torch.cat(paid)
    mu = (sum_per_row.sum() / paid_per_row.sum()).item() if options.mu == "batch" else 0.0
    s = (sum_per_row - mu * paid_per_row).std().item()
    if not s > 1e-6:
        raise Unstable(f"the rewards of {options.scale_samples} samples of the starting policy are all alike (s = {s})")
    return RewardScale(mu, s, sum_per_row.mean().item(), length.mean().item())


def prompt_batches(
    prompts: list[list[int]], options: PpoOptions, seed: int, first: int, last: int
) -> Iterator[list[list[int]]]:
    """The prompts of steps first..last-1, each as often as it is answered: one shuffled pass after another, whatever
    the batch size."""
    order_of: dict[int, list[int]] = {}
    count = options.batch_size // options.samples_per_prompt
    for step in range(first, last):
        batch = []
        for position in range(step * count, (step + 1) * count):
            epoch, place = divmod(position, len(prompts))
            if epoch not in order_of:
                shuffle = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
                order_of = {epoch: torch.randperm(len(prompts), generator=shuffle).tolist()}
            batch += [prompts[order_of[epoch][place]]] * options.samples_per_prompt
        yield batch


def rollout_metrics(
    rollout: Responses, rewards: Tensor, kl: Tensor, values: Tensor, returns: Tensor
) -> dict[str, float]:
    """`reward_sum` is the raw one; KL is against the starting policy, k1 (log-ratios) per response and per token, and
    k3 (never below 0, less noise) per token; `entropy`: minus the mean log-probability of the sampled tokens."""
    mask = rollout.mask
    metrics = {
        "reward_sum": rewards.sum(1).mean(),
        "reward_per_token": masked_mean(rewards, mask),
        "kl_per_response": kl.sum(1).mean(),
        "kl_per_token": masked_mean(kl, mask),
        "kl_k3_per_token": masked_mean(torch.expm1(-kl) + kl, mask),
        "entropy": masked_mean(-rollout.log_probs, mask),
        "length": mask.sum(1).float().mean(),
        "truncated": (~rollout.ended).float().mean(),
        "explained_variance": explained_variance(values, returns, mask),
    }
    return {name: value.item() for name, value in metrics.items()}


def raise_alarms(reporter: Reporter, step: int, metrics: dict[str, float], scale: RewardScale) -> None:
    if metrics["kl_per_token"] > HIGH_KL_PER_TOKEN:
        reporter.alarm(
            "high_kl",
            "the policy has left the region where its rewards were learned; a higher beta holds it",
            step=step,
            value=metrics["kl_per_token"],
            threshold=HIGH_KL_PER_TOKEN,
        )
    drift = metrics["length"] / scale.start_length - 1
    if abs(drift) > LENGTH_DRIFT:
        reporter.alarm(
            "length_drift",
            f"responses have {metrics['length']:.1f} tokens; they began with {scale.start_length:.1f}",
            step=step,
            value=drift,
            threshold=math.copysign(LENGTH_DRIFT, drift),
        )
