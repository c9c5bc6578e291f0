"""The peer of bench:score: a straightforward token reward server with FastAPI and transformers.

    python bench/score/peer.py FOLDER PORT DTYPE

It loads the folder that finegrain serves, writes the same tokens before and after a prompt, and answers the same
columns: POST /score {"items": [{"prompt", "response"}]}. Batches of 16; the items of a request are sorted by length.
"""

import json
import sys
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel

BATCH = 16
folder, port, dtype = Path(sys.argv[1]), int(sys.argv[2]), getattr(torch, sys.argv[3])
torch.set_num_threads(1)
card = json.loads((folder / "finegrain.json").read_text())
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
weights = load_file(folder / "model.safetensors")
backbone = AutoModel.from_config(AutoConfig.from_pretrained(folder), dtype=dtype).eval()
backbone.load_state_dict({n.removeprefix("model."): w for n, w in weights.items() if n.startswith("model.")})
weight, bias = weights["score.weight"].to(dtype), weights["score.bias"].to(dtype)
user, generation = card["prompt_format"]["roles"]["user"], card["prompt_format"]["generation_prefix"]
before, after = card["prompt_format"]["bos"] + user["prefix"], user["suffix"] + generation
clip = card["reward"]["clip"]


def score(items: list[dict]) -> list[dict]:
    prompts = tokenizer.encode_batch([item["prompt"] for item in items], add_special_tokens=False)
    responses = tokenizer.encode_batch([item["response"] for item in items], add_special_tokens=False)
    ids = [before + p.ids + after + r.ids for p, r in zip(prompts, responses, strict=True)]
    order = sorted(range(len(items)), key=lambda i: len(ids[i]))
    results: list[dict] = [{}] * len(items)
    with torch.inference_mode():
        for start in range(0, len(items), BATCH):
            rows = order[start : start + BATCH]
            longest = max(len(ids[row]) for row in rows)
            batch = torch.tensor([ids[row] + [0] * (longest - len(ids[row])) for row in rows])
            mask = torch.tensor([[1] * len(ids[row]) + [0] * (longest - len(ids[row])) for row in rows])
            hidden = backbone(input_ids=batch, attention_mask=mask, use_cache=False).last_hidden_state
            z = torch.nn.functional.linear(hidden, weight, bias)[..., 0].float()
            rewards = (-torch.nn.functional.softplus(z)).clamp(min=clip)
            for k, row in enumerate(rows):
                own = rewards[k, len(ids[row]) - len(responses[row].ids) : len(ids[row])].tolist()
                results[row] = {
                    "token_ids": responses[row].ids,
                    "tokens": responses[row].tokens,
                    "offsets": responses[row].offsets,
                    "rewards": own,
                    "reward": sum(own),
                }
    return results


app = FastAPI()


@app.post("/score")
async def answer(request: Request) -> Response:
    body = await request.json()
    return Response(json.dumps({"results": score(body["items"])}), media_type="application/json")


@app.get("/health")
async def health() -> dict:
    return {"ready": True}


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
