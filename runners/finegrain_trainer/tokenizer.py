"""The byte-level BPE of a model that starts from scratch: any Unicode text has ids, and they decode to that text.

Training is deterministic: equal texts give a tokenizer.json equal byte by byte.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from .prompt_format import PromptFormat, RoleFormat

# Their ids are their places.
SPECIAL_TOKENS = ["<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>"]
PAD, BOS, EOS, SYSTEM, USER, ASSISTANT = range(len(SPECIAL_TOKENS))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` entries, special tokens first (fewer where the texts have no more)."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def chat_format() -> PromptFormat:
    """A marker before each message; an assistant's message ends with EOS, as its responses do."""
    roles = {
        "system": RoleFormat([SYSTEM], []),
        "user": RoleFormat([USER], []),
        "assistant": RoleFormat([ASSISTANT], [EOS]),
    }
    return PromptFormat([BOS], roles, [ASSISTANT])
