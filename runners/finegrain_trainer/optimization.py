"""One way to take an optimizer step, for every kind of training."""

import torch
from torch import Tensor, nn


def adamw(module: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        module.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def descend(loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float | None:
    """One step down the gradient of `loss`; the gradient's norm before it was scaled down to `max_grad_norm`.

    None, and nothing is changed, when loss or gradient is not a finite number.
    """
    optimizer.zero_grad()
    loss.backward()
    grad_norm = nn.utils.clip_grad_norm_(module.parameters(), max_grad_norm)
    if not torch.isfinite(loss + grad_norm):
        return None
    optimizer.step()
    return grad_norm.item()
