"""How much each training row counts: all edits of a pair as much as any other pair, and for each head its own draw."""

from collections import Counter

import torch
from torch import Tensor

from .data import Edit, Pair


def row_weights(rows: list[Edit] | list[Pair], weighting: str, heads: int, seed: int) -> Tensor:
    """Weights [rows, heads], 1 on average for each head; all of them 1 for one head and the weighting `edit`.

    `weighting`: `edit`, all rows alike, or `pair`, the rows of a pair share one weight. With several heads each has a
    bootstrap of its own: as often as it drew the row, with replacement, from as many draws as there are rows.
    """
    pairs = [row.pair if isinstance(row, Edit) else row.id for row in rows]
    by_pair = torch.ones(len(rows))
    if weighting == "pair":
        counts = Counter(pairs)
        by_pair = torch.tensor([len(rows) / len(counts) / counts[pair] for pair in pairs])
    if heads == 1 or not rows:
        return by_pair[:, None].expand(-1, heads)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(rows), (heads, len(rows)), generator=generator)
    counts = torch.stack([torch.bincount(draw, minlength=len(rows)) for draw in draws], dim=1)
    return by_pair[:, None] * counts
