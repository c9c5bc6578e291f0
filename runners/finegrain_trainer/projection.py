"""A reward model with another tokenizer than the policy: its rewards are carried over by the characters of the text.

A reward is divided among the policy's tokens that its characters belong to, in proportion, so that the sum over a
response stays what it was and each token is paid for its own text. EOS pays EOS.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from .data import Prompt
from .failures import BadSpec
from .models import RewardModel
from .prompt_format import TextCodec

Span = tuple[int, int]


def tile(offsets: Sequence[Span], length: int) -> list[Span]:
    """The offsets that a tokenizer reports, as spans that tile a text of `length` code points in the tokens' order.

    Of several tokens that share a character the last one owns it; text that no token covers belongs to the next one, at
    the end to the last (DESIGN 5). test/golden/token_offsets.json holds it equal to src/domain/token-offsets.ts.
    """
    with_text = [i for i, (start, end) in enumerate(offsets) if start < end]
    takes_rest = with_text[-1] if with_text else len(offsets) - 1
    next_start = [length] * len(offsets)  # where the first character begins that a later token has a part of
    lowest = length
    for i in range(len(offsets) - 1, -1, -1):
        next_start[i] = lowest
        if offsets[i][0] < offsets[i][1]:
            lowest = min(lowest, offsets[i][0])
    spans, done = [], 0
    for i, (start, end) in enumerate(offsets):
        begin = done
        if i == takes_rest:
            done = length
        elif start < end:
            done = max(done, min(end, next_start[i]))
        spans.append((begin, done))
    return spans


def project(rewards: Sequence[float], spans: Sequence[Span], onto: Sequence[Span]) -> list[float]:
    """`rewards` of tokens at `spans` as rewards of the tokens at `onto`: both tile one text, and the sums are equal.

    A token without text of its own (a part of a character, a control token) pays the one whose character comes next.
    """
    projected = [0.0] * len(onto)
    ends = [end for _, end in onto]
    for reward, (start, end) in zip(rewards, spans, strict=True):
        place = min(bisect_right(ends, start), len(onto) - 1)
        if start == end or start >= ends[-1]:
            projected[place] += reward
            continue
        while place < len(onto) and onto[place][0] < end:
            overlap = min(end, onto[place][1]) - max(start, onto[place][0])
            projected[place] += reward * max(0, overlap) / (end - start)
            place += 1
    return projected


class ProjectedRewards:
    """What a RewardModel says of the responses of a policy with another tokenizer, token by token of the policy.

    `prompt_of` finds the prompt that the policy's ids stand for: the reward model has a format of its own.
    """

    def __init__(
        self,
        model: RewardModel,
        codec: TextCodec,
        context_length: int,
        policy: TextCodec,
        prompt_of: Callable[[list[int]], Prompt],
    ):
        self._model = model
        self._codec = codec
        self._context_length = context_length
        self._policy = policy
        self._prompt_of = prompt_of
        self.role = model.role
        self.paid = model.paid

    @torch.no_grad()
    def response_rewards(self, prompts: list[list[int]], responses: list[list[int]]) -> Tensor:
        """Rewards [n] of all response tokens, row by row; a sequence reward stands on the last one."""
        own_prompts = [self._codec.prompt_ids(self._prompt_of(ids)) for ids in prompts]
        versions = [self._in_both(ids) for ids in responses]
        own_responses = [ids for ids, _, _ in versions]
        longest = max(len(p) + len(r) for p, r in zip(own_prompts, own_responses, strict=True))
        if longest > self._context_length:
            raise BadSpec(
                f"reward_model: a prompt with its response has {longest} tokens in its tokenizer, and its context is "
                f"{self._context_length}; lower hyperparameters.max_new_tokens, or leave long prompts out"
            )
        packed = self._model.response_rewards(own_prompts, own_responses)
        rewards = []
        for row, (_, spans, onto) in zip(packed.split([len(ids) for ids in own_responses]), versions, strict=True):
            if self.role == "sequence_reward":
                rewards += [0.0] * (len(onto) - 1) + [row.sum().item()]
            else:
                rewards += project(row.tolist(), spans, onto)
        return torch.tensor(rewards, dtype=packed.dtype, device=packed.device)

    def _in_both(self, ids: list[int]) -> tuple[list[int], list[Span], list[Span]]:
        """A response as ids of the reward model, with their spans and those of the policy's tokens; EOS has a span of
        one beyond the text."""
        ended = ids[-1] == self._policy.eos_token_id
        texts = self._policy.token_texts(ids[:-1] if ended else ids)
        text = "".join(texts)
        own, offsets = self._codec.encode_with_offsets(text)
        spans = tile(offsets, len(text))
        onto = list(pairwise(accumulate((len(each) for each in texts), initial=0)))
        if ended or not own:  # a response without text is nothing but its end
            own = [*own, self._codec.eos_token_id]
            spans.append((len(text), len(text) + 1))
        if ended:
            onto.append((len(text), len(text) + 1))
        return own, spans, onto
