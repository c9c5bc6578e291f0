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

from .alarms import Alarms, pause_point
from .batching import collate, length_sorted, unpack
from .checkpoint import CheckpointStore, restore_training, training_tensors
from .data import PromptRow, file_digest, read_prompts
from .failures import BadSpec, Unstable
from .finetuning import finish
from .generate import prompt_token_ids, response_columns
from .models import LanguageModel, check_tokenizer, load_policy, locate, save_policy, weights_digest
from .optimization import adamw, descend
from .parallel import is_first, length_sorted_parts, loading_device
from .policy_watch import PROBED_RESPONSES, PolicyWatch, abuses, mean_of, token_shares, win_rate
from .ppo_networks import (
    Actor,
    ActorCritic,
    PromptsOf,
    Reference,
    Scorer,
    load_networks,
    load_reference,
    load_scorer,
)
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
    token_zero,
    value_loss,
    whiten,
)
from .rollouts import rollout_rows, save_rollouts
from .sampling import Responses, response_kl, row_uniforms
from .spec import PpoOptions, PpoSpec
from .workdir import finish_file, finish_folder, run_identity

# mu follows the policy: mu <- (1 - MU_RATE) mu + MU_RATE * that of the batch.
MU_RATE = 0.2


def run(spec: PpoSpec, workdir: Path, device: torch.device, reporter: Reporter, stop: StopRequest) -> dict:
    options = spec.options
    policy = load_policy(spec.policy, loading_device(device))
    prompts_of: PromptsOf = {}
    actor, reference, scorer = load_networks(spec, policy, prompts_of, device)
    check_that_it_finds_tokens(spec.reward_model, scorer, options, reporter)
    context = min(policy.card.context_length, scorer.context_length)
    rows = read_prompts(spec.prompts)
    prompts = [policy.codec.prompt_ids(row.prompt) for row in rows]
    row_of = {tuple(ids): row for ids, row in zip(prompts, rows, strict=True)}  # equal prompts are one to the policy
    prompts_of |= {ids: row.prompt for ids, row in row_of.items()}
    prompts = fitting_prompts(prompts, context - options.max_new_tokens, reporter)

    evaluation = load_evaluation(spec, policy, reference, prompts_of, device) if spec.evaluation else None
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
    alarms = Alarms(spec.alarms, reporter)
    if checkpoint := store.latest(required=spec.finish_at_checkpoint):
        restore_training(actor.model, optimizer, checkpoint.tensors)
        generator.set_state(checkpoint.tensors["random.generator"])
        scale, beta = RewardScale(**checkpoint.state["scale"]), checkpoint.state["beta"]
        step, last = checkpoint.step, checkpoint.state["metrics"]
        evaluations = {int(at): rows for at, rows in checkpoint.state["evaluations"].items()}
        watch = PolicyWatch(alarms, scale.start_length, checkpoint.tensors["watch.start_shares"], scale.s)
        watch.restore(checkpoint.state["watch"])
        alarms.restore(checkpoint.state["alarms"])
    else:
        reporter.progress(0, options.steps, "measure the starting policy")
        scale, shares = starting_scale(actor, scorer, prompts, policy.card.vocab_size, generator, options)
        beta = options.beta
        step, last, evaluations = 0, {}, {}
        watch = PolicyWatch(alarms, scale.start_length, shares, scale.s)
        watch.probed(scale.probes)
    last_step = step if spec.finish_at_checkpoint else options.steps

    def evaluate() -> None:
        if evaluation and step not in evaluations and (step % evaluation.every == 0 or step == last_step):
            reporter.progress(step, last_step, "evaluate")
            evaluations[step], values = evaluation.run(actor, scorer, spec.seed, options)
            reporter.metrics(step, values | evaluation_win_rates(evaluations[step], evaluations[0]))
            watch.evaluated(step, math.ceil(options.steps / 2), evaluations)

    def keep() -> None:
        """All that the rest of the run depends on."""
        tensors = {
            **training_tensors(actor.model, optimizer),
            "random.generator": generator.get_state(),
            "watch.start_shares": watch.start_shares,
        }
        state = {"scale": vars(scale), "beta": beta, "metrics": last, "evaluations": evaluations}
        store.save(step, tensors, state | {"watch": watch.state(), "alarms": alarms.state()})

    by_critic = options.advantage == "gae"
    evaluate()
    pause_point(False, keep, alarms, stop)
    for batch_prompts in prompt_batches(prompts, options, spec.seed, step, last_step):
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
            if options.mu != "zero":
                sums, counts = (rewards * paid).sum(1), paid.sum(1)
                scale.follow(token_zero(sums.double(), counts.double(), options.mu).item())
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
        lengths = [len(prompt) + len(response) for prompt, response in zip(batch_prompts, responses, strict=True)]
        experience = Experience(batch_prompts, responses, mask, rollout.log_probs, values, returns, whitened)
        for _ in range(options.epochs):
            order = torch.randperm(len(batch_prompts), generator=generator)
            for rows in order.tensor_split(options.minibatches):
                losses = partial(minibatch_losses, actor.model, experience, options, int(mask[rows].sum()))
                micro_batches = length_sorted_parts(rows.tolist(), lengths, options.micro_batch_size, device)
                figures = descend(actor.placed, optimizer, micro_batches, losses, options.max_grad_norm)
                alarms.updated(step + 1, figures)
                if figures["grad_norm"] is not None:
                    updates.append({name: value for name, value in figures.items() if name != "loss"})
        step += 1

        # 5. Report. The sum of raw rewards is always there: shaped ones hide a policy that games them.
        last = rollout_metrics(rollout, rewards, kl, values, returns)
        last |= {name: sum(u[name] for u in updates) / len(updates) for name in (updates[0] if updates else ())}
        last |= {"mu": scale.mu, "s": scale.s, "beta": beta}
        if options.kl_target and last["kl_per_response"] is not None:
            beta = adapted_beta(
                beta, last["kl_per_response"], options.kl_target, options.batch_size, options.kl_horizon
            )
        reporter.progress(step, options.steps, "train")
        tokens_per_second = mask.sum().item() / (time.monotonic() - started)
        reporter.metrics(step, last | {"tokens_per_second": tokens_per_second})  # of the machine, not of the run
        shares = token_shares(rollout.ids, mask, policy.card.eos_token_id, policy.card.vocab_size)
        watch.step(step, last, shares, lambda token: policy.codec.decode([token]))
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
        evaluate()
        due = step % options.checkpoint_every == 0 or step == options.steps
        pause_point(due, keep, alarms, stop)

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
        "probes": scale.probes,
        **last,
    }


def check_that_it_finds_tokens(folder: Path, scorer: Scorer, options: PpoOptions, reporter: Reporter) -> None:
    """Raises BadSpec for a token reward model whose own report says that it does not find what people edit away."""
    if scorer.model.role != "token_reward" or options.reward_placement != "token" or options.minimum_bad_token_auc == 0:
        return
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        report = {}
    found = report.get("headline", {}).get("bad_token_auc")  # neither in reports of before nor in models from elsewhere
    if found is None:
        reporter.log("the reward model has no bad_token_auc: nobody knows whether it finds tokens", level="warning")
    elif found < options.minimum_bad_token_auc:
        raise BadSpec(
            f"reward_model: finds edited tokens with a bad_token_auc of {found:.3f}; below "
            f"{options.minimum_bad_token_auc} (hyperparameters.minimum_bad_token_auc) token rewards do not pay. "
            "Train it on more edits or for longer, or have its total paid at the end (hyperparameters.reward_placement)"
        )


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
    judge: Scorer | None
    model: LanguageModel
    every: int
    identity: dict[str, Any]

    @torch.no_grad()
    def run(self, actor: Actor, scorer: Scorer, seed: int, options: PpoOptions) -> tuple[list[dict], dict[str, float]]:
        """Ids, KL and reward, also the judge's, of a response to each prompt, in the order of the prompts; and their
        means as metrics."""
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
            judges = {"reward": scorer} | ({"judge_reward": self.judge} if self.judge else {})
            for name, judge in judges.items():
                columns[name] = unpack(judge.rewards(prompts, responses), sampled.mask).sum(1)
            for place, row in enumerate(batch):
                values = {name: column[place].item() for name, column in columns.items()}
                results[row] = {"ids": responses[place], **values}
        metrics = {
            "evaluation_reward_sum": mean_of(results, "reward"),
            "evaluation_kl_per_response": mean_of(results, "kl"),
            "evaluation_length": sum(len(r["ids"]) for r in results) / len(results),
        }
        return results, metrics | (
            {"evaluation_judge_reward_sum": mean_of(results, "judge_reward")} if self.judge else {}
        )

    def lines(self, evaluations: dict[int, list[dict]], batch_size: int) -> Iterator[str]:
        """NDJSON: a row for each prompt of each evaluation."""
        for step in sorted(evaluations):
            for row, result in zip(self.rows, evaluations[step], strict=True):
                head = {"step": step, "samples": step * batch_size, "id": row.id, "prompt": row.raw_prompt}
                values = {name: value for name, value in result.items() if name != "ids"}
                line = head | response_columns(self.model, result["ids"]) | values
                yield json.dumps(line, ensure_ascii=False) + "\n"


def evaluation_win_rates(rows: list[dict], start: list[dict]) -> dict[str, float]:
    """Over the starting policy's responses to the same prompts, as the reward model sees it, and the judge."""
    judges = {"evaluation_win_rate": "reward", "evaluation_judge_win_rate": "judge_reward"}
    return {name: win_rate(rows, start, judge) for name, judge in judges.items() if judge in rows[0]}


def load_evaluation(
    spec: PpoSpec, policy: LanguageModel, reference: Reference, prompts_of: PromptsOf, device: torch.device
) -> PolicyEvaluation:
    wanted = spec.evaluation
    identity = {"evaluation_rows": file_digest(wanted.prompts), "evaluation_every": wanted.options.every}
    references = {"kl": reference}
    if wanted.kl_reference is not None:
        folder = locate(wanted.kl_reference)
        check_tokenizer(policy.folder, folder, "evaluation.kl_reference")
        references["kl_to_reference"] = load_reference(wanted.kl_reference, spec.options, device)
        identity["kl_reference"] = weights_digest(folder)
    judge = None
    if wanted.judge is not None:
        judge = load_scorer(wanted.judge, policy, prompts_of, spec.options, device)
        identity["judge"] = weights_digest(wanted.judge)
    rows = read_prompts(wanted.prompts)
    prompts = prompt_token_ids(policy, rows, spec.options.max_new_tokens, wanted.prompts.name)
    prompts_of |= {tuple(ids): row.prompt for ids, row in zip(prompts, rows, strict=True)}
    return PolicyEvaluation(rows, prompts, references, judge, policy, wanted.options.every, identity)


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
    probes: dict[str, float]  # by how much abuses() of its responses are paid better than they are, in units of s

    def follow(self, zero: float) -> None:
        """`mu` of the current policy; a batch with rewards that are no finite numbers changes nothing."""
        if math.isfinite(zero):
            self.mu = (1 - MU_RATE) * self.mu + MU_RATE * zero


def starting_scale(
    actor: Actor,
    scorer: Scorer,
    prompts: list[list[int]],
    vocab_size: int,
    generator: torch.Generator,
    options: PpoOptions,
) -> tuple[RewardScale, Tensor]:
    """s is the standard deviation of the sequence sums of r - mu over samples of the starting policy; beside it the
    share [vocab] of each token among those samples."""
    sums, lengths, paid, shares = [], [], [], []
    first: tuple[list[list[int]], list[list[int]], Tensor] | None = None
    for start in range(0, options.scale_samples, options.batch_size):
        count = min(options.batch_size, options.scale_samples - start)
        batch = [prompts[(start + i) % len(prompts)] for i in range(count)]
        uniforms = torch.rand(count, options.max_new_tokens, generator=generator)
        rollout = actor.sample(batch, uniforms)
        responses = rollout.lists()
        rewards = unpack(scorer.rewards(batch, responses), rollout.mask)
        first = first or (batch[:PROBED_RESPONSES], responses[:PROBED_RESPONSES], rewards[:PROBED_RESPONSES])
        shares.append(token_shares(rollout.ids, rollout.mask, actor.eos_token_id, vocab_size) * count)
        sums.append(rewards.sum(1).double().cpu())
        lengths.append(rollout.mask.sum(1).double().cpu())
        paid.append(scorer.model.paid(rollout.mask).sum(1).double().cpu())
    sum_per_row, length, paid_per_row = torch.cat(sums), torch.cat(lengths), torch.cat(paid)
    mu = token_zero(sum_per_row, paid_per_row, options.mu).item()
    s = (sum_per_row - mu * paid_per_row).std().item()
    if not s > 1e-6:
        raise Unstable(f"the rewards of {options.scale_samples} samples of the starting policy are all alike (s = {s})")

    def centred(responses: list[list[int]]) -> Tensor:
        mask = collate([[] for _ in responses], responses, actor.placed.device).is_response
        rewards = unpack(scorer.rewards(probed, responses), mask)
        return ((rewards - mu) * scorer.model.paid(mask)).sum(1)

    probed, responses, rewards = first
    own = centred(responses).mean()
    abused = abuses(responses, rewards, actor.eos_token_id, options.max_new_tokens)
    gains = {name: ((centred(ids).mean() - own) / s).item() for name, ids in abused.items()}
    scale = RewardScale(mu, s, sum_per_row.mean().item(), length.mean().item(), gains)
    return scale, sum(shares) / options.scale_samples


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
) -> dict[str, float | None]:
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
    return {name: value.item() if value.isfinite() else None for name, value in metrics.items()}
