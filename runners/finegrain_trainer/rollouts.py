"""Rollouts that are kept to be looked at: what PPO made of each token of a few responses, as NDJSON under gzip.

They are the first rows of a batch, whose order is random already: nothing is drawn for them.
"""

import gzip
import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from .checkpoint import sync
from .data import PromptRow
from .generate import response_columns
from .models import LanguageModel
from .parallel import is_first
from .protocol import Reporter

ROWS = 8


def rollout_rows(
    model: LanguageModel, prompts: list[PromptRow], responses: list[list[int]], columns: dict[str, Tensor]
) -> list[dict[str, Any]]:
    """A row for each of the first responses; `columns`: name -> [batch, time], read at the tokens of the response."""
    rows = []
    for place, (prompt, ids) in enumerate(zip(prompts[:ROWS], responses, strict=False)):
        values = {
            name: [_short(value) for value in column[place, : len(ids)].tolist()] for name, column in columns.items()
        }
        tokens = model.codec.token_texts(ids)
        head = {"id": prompt.id, "prompt": prompt.raw_prompt}
        rows.append(head | response_columns(model, ids) | {"tokens": tokens} | values)
    return rows


def save_rollouts(workdir: Path, step: int, rows: list[dict[str, Any]], reporter: Reporter) -> None:
    """Writes the rows of a step in one piece, equal bytes for equal rows, and says where: the first process does."""
    if not is_first():
        return
    folder = workdir / "rollouts"
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    aside, final = folder / ".writing", folder / f"step-{step:08d}.ndjson.gz"
    aside.write_bytes(gzip.compress(text.encode(), mtime=0))
    sync(aside)
    aside.rename(final)
    reporter.rollouts(step, f"rollouts/{final.name}", len(rows))


def _short(value: float) -> float | None:
    """Six decimals are more than anybody looks at; JSON has no NaN."""
    return round(value, 6) if math.isfinite(value) else None
