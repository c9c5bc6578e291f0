"""One way to take an optimizer step, for every kind of training."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .parallel import Part, Placed, summed, whole


def adamw(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Over the weights that are trained; its moments are in float32, as they are."""
    return torch.optim.AdamW(
        [parameter for parameter in module.parameters() if parameter.requires_grad],
        lr=learning_rate,
        betas=(0.9, 0.95),
        weight_decay=weight_decay,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def descend(
    placed: Placed,
    optimizer: torch.optim.Optimizer,
    parts: list[Part],
    losses: Callable[[list[int]], dict[str, Tensor]],
    max_grad_norm: float,
) -> dict[str, float | None]:
    """One step down the gradient of `loss`, which is summed over all parts of all processes.

    `losses(rows)` gives what some rows add to `loss` and to figures that are only looked at. Returns their sums, and
    `grad_norm`: the gradient's norm before it was scaled down to `max_grad_norm`; None, and nothing is changed, when
    loss or norm is not a finite number.
    """
    optimizer.zero_grad()
    shares = []
    for part in parts:
        share = placed(losses, part.rows)
        (share["loss"] * part.weight).backward()
        shares.append(torch.stack([value.detach() for value in share.values()]) * part.weight)
    totals = summed(sum(shares[1:], start=shares[0]))
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    grad_norm = whole(nn.utils.clip_grad_norm_(trained, max_grad_norm))
    figures = dict(zip(share, totals.tolist(), strict=True))
    if not torch.isfinite(totals[list(share).index("loss")] + grad_norm):
        return figures | {"grad_norm": None}
    optimizer.step()
    return figures | {"grad_norm": grad_norm.item()}
