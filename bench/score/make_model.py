"""The model of bench:score: Llama-shaped, random weights from a seed, an 8k vocabulary learned from this repository's texts.

    python bench/score/make_model.py FOLDER HIDDEN LAYERS HEADS < TEXT

Everything is the trainer's own: tokenizer, export, golden items. The peer loads the same folder.
"""

import sys
import tempfile
from pathlib import Path

import torch
from finegrain_trainer import int8
from finegrain_trainer.data import Message
from finegrain_trainer.models import (
    new_reward_model,
    save_reward_model,
    scratch_policy,
)
from finegrain_trainer.servable import write_graphs
from finegrain_trainer.spec import RewardOptions, ScratchModel

VOCABULARY, CONTEXT = 8192, 2048
SEED = 9

folder, hidden, layers, heads = Path(sys.argv[1]), *map(int, sys.argv[2:])
folder.mkdir(parents=True)
torch.set_num_threads(1)
lines = sys.stdin.read().splitlines()
shape = ScratchModel(
    hidden_size=hidden, num_layers=layers, num_heads=heads, vocab_size=VOCABULARY, context_length=CONTEXT
)
with tempfile.TemporaryDirectory() as workdir:
    base = scratch_policy(shape, iter(lines), SEED, Path(workdir), torch.device("cpu"))
    model = new_reward_model(base, "survival", RewardOptions(), SEED).eval()
    with torch.no_grad():
        model.score.weight.mul_(20)  # as it starts, all tokens have nearly the same reward
    texts = [((Message("user", line),), line, line[::-1]) for line in filter(None, lines[:400:40])]
    # that random weights are ranked otherwise is no reason not to measure; what is printed says how far
    int8.LEAST_RANK_CORRELATION = int8.MOST_AUC_DIFFERENCE = 0
    onnx = write_graphs(model, folder, base.codec, texts, CONTEXT).onnx
    save_reward_model(model, base, folder, onnx)
print(onnx["int8"])
