"""The peer of bench:train: TRL's PPOTrainer on the models and the prompts that the trainer has.

    python bench/train/peer.py MODELS WORK MAX_NEW_TOKENS BATCH EPOCHS MINIBATCHES

MODELS: a folder of make_models.py; WORK: `ending` or `fixed`. Takes steps until it is killed, and after each one writes
{"step", "length": mean tokens of a response} as a line on stdout. What only costs time is off: gradient checkpointing,
samples for people, checkpoints, evaluation, logging.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
events = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # TRL prints as well

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

models, work, (max_new_tokens, batch, epochs, minibatches) = Path(sys.argv[1]), sys.argv[2], map(int, sys.argv[3:])
torch.set_num_threads(1)
folder = models / work
tokenizer = PreTrainedTokenizerFast(
    tokenizer_file=str(folder / "tokenizer.json"), pad_token="<|pad|>", eos_token="<|eos|>", padding_side="left"
)
prompts = json.loads((models / "prompts.json").read_text())
policy, reference = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
reward_model, value_model = (
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32) for _ in range(2)
)

lengths = torch.zeros(())
generate = ppo_trainer.batch_generation


def counting(model, queries, *rest):
    """TRL's own generation; notes the mean number of tokens up to the end of a response."""
    global lengths
    query_responses, logits = generate(model, queries, *rest)
    responses = query_responses[:, queries.shape[1] :]
    ended = (responses == tokenizer.eos_token_id).cumsum(1) - (responses == tokenizer.eos_token_id).long()
    lengths = ((ended == 0) | (work == "fixed")).sum(1).float().mean()
    return query_responses, logits


ppo_trainer.batch_generation = counting


class TellSteps(TrainerCallback):
    def on_step_end(self, args, state, control, **rest):
        events.write(json.dumps({"step": state.global_step, "length": lengths.item()}) + "\n")


with tempfile.TemporaryDirectory() as output:
    PPOTrainer(
        args=PPOConfig(
            output_dir=output,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=1,
            num_mini_batches=minibatches,
            num_ppo_epochs=epochs,
            total_episodes=batch * 100_000,
            local_rollout_forward_batch_size=batch,
            response_length=max_new_tokens,
            stop_token="eos" if work == "ending" else None,
            temperature=1.0,
            missing_eos_penalty=1.0,
            learning_rate=1e-6,
            num_sample_generations=0,
            gradient_checkpointing=False,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward_model,
        value_model=value_model,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        eval_dataset=Dataset.from_dict({"input_ids": prompts[:batch]}),
        callbacks=[TellSteps()],
    ).train()
