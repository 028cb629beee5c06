"""Byte-pair vocabularies, which are learned from a text, and texts as their tokens."""

import json
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bfn.configs import Config, ConfigError, first_line
from bfn.data.files import find_text, read_text
from bfn.data.shipped import topics
from bfn.data.splits import Data, ends, windows
from bfn.training.checkpoint import CheckpointError

MOST_TO_VALIDATE = 128  # windows, spread over their split: of a long text all of them would take minutes each time


def text_bpe(config: Config, tokenizer: str | None = None) -> Data:
    """Windows of tokens of the language reference as it stands, or of any text of the name data.file in data.folder.
    They are of the tokenizer's vocabulary, or else of one of data.vocabulary entries that is learned from what is
    trained on."""
    settings = config.data
    if settings.folder is None:
        whole = "\n\n".join(text for _, text in sorted(topics().items()))
    else:
        whole = read_text(find_text(config))
    if settings.vocabulary <= 256:
        raise ConfigError(f"data.vocabulary={settings.vocabulary} must be more than the 256 bytes")
    train, validation = ends(len(whole))
    parts = whole[:train], whole[train:validation], whole[validation:]
    learned = learn(parts[0], settings.vocabulary) if tokenizer is None else parsed(tokenizer)
    symbols = pieces(learned)
    splits = [torch.tensor(learned.encode(part).ids, dtype=torch.int32) for part in parts]
    mean = len(parts[2].encode()) / max(1, len(splits[2]))
    data = windows(splits, settings.length, 1, symbols, tokenizer=tokenizer or learned.to_str(), token_bytes=mean)
    return replace(data, validation=data.validation[:: -(-len(data.validation) // MOST_TO_VALIDATE)])


def learn(text: str, num_classes: int) -> Tokenizer:
    """A vocabulary of at most this many entries, of which the 256 bytes are the first, so that it has every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_classes, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def parsed(text: str) -> Tokenizer:
    """The byte-pair tokenizer that a checkpoint has as JSON, of which only entries and merges are taken, whatever else
    it says; anything that is none is a CheckpointError."""
    try:
        model = json.loads(text)["model"]
        vocabulary = {str(entry): int(number) for entry, number in model["vocab"].items()}
        tokenizer = learn("", 256)
        tokenizer.model = models.BPE(vocabulary, [(str(first), str(second)) for first, second in model["merges"]])
        if missing := {bytes([byte]) for byte in range(256)} - set(pieces(tokenizer)):
            raise ValueError(f"it lacks {len(missing)} of the 256 bytes")
    except Exception as error:  # the library raises nothing that is more special
        raise CheckpointError(f"the checkpoint's tokenizer cannot be used: {first_line(error)}") from error
    return tokenizer


def pieces(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each class stands for."""
    byte_of = bytes_of_letters()
    entries: Any = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    return [bytes(byte_of[letter] for letter in entry) for entry in entries]


def bytes_of_letters() -> dict[str, int]:
    """The byte that each letter of an entry stands for: itself where Latin-1 can print it, or else the next letter
    after these (GPT-2's table)."""
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(256 + place): byte for place, byte in enumerate(others)}
