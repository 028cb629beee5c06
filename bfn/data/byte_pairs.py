"""Learns a byte-pair vocabulary from a text, and splits the text into the tokens of this vocabulary."""

import json
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bfn.configs import Config, ConfigError, DataConfig, first_line
from bfn.data.files import find_text, read_text
from bfn.data.ngrams import KneserNey
from bfn.data.shipped import topics
from bfn.data.splits import Data, ends, windows
from bfn.training.checkpoint import CheckpointError

# A validation reads at most this many windows, spread evenly over the validation split. To read all windows of a long
# text would take minutes in each validation.
MAX_VALIDATION_WINDOWS = 128


def text_bpe(config: Config, tokenizer: str | None = None) -> Data:
    """Windows of the tokens of a text.

    The text is the file data.file in data.folder. Without a folder, it is Python's language reference, with its
    capitals and punctuation. `tokenizer`, as JSON, makes the tokens. Without it, a vocabulary of at most
    data.vocabulary entries is learned from the training split of the text.
    """
    settings = config.data
    if settings.folder is None and settings.file == DataConfig.file:
        whole = "\n\n".join(text for _, text in sorted(topics().items()))
    else:
        whole = read_text(find_text(config))
    if settings.vocabulary <= 256:
        raise ConfigError(f"data.vocabulary={settings.vocabulary} must be more than 256, since each byte is an entry")
    train, validation = ends(len(whole))
    parts = whole[:train], whole[train:validation], whole[validation:]
    learned = learn(parts[0], settings.vocabulary) if tokenizer is None else parsed(tokenizer)
    symbols = pieces(learned)
    splits = [torch.tensor(learned.encode(part).ids, dtype=torch.int32) for part in parts]
    mean = len(parts[2].encode()) / max(1, len(splits[2]))
    *known, test = splits

    def rivals() -> dict[str, float]:
        return {"Kneser-Ney trigrams": KneserNey(torch.cat(known), len(symbols)).bits(test)}

    more: dict[str, Any] = {"tokenizer": tokenizer or learned.to_str(), "token_bytes": mean, "rivals": rivals}
    data = windows(splits, settings.length, 1, symbols, **more)
    return replace(data, validation=data.validation[:: -(-len(data.validation) // MAX_VALIDATION_WINDOWS)])


def learn(text: str, num_classes: int) -> Tokenizer:
    """Learns a vocabulary of at most num_classes entries from a text. The first 256 entries are the single bytes, so
    that the vocabulary can encode any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_classes, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def parsed(text: str) -> Tokenizer:
    """Makes a byte-pair tokenizer from the JSON text in a checkpoint. It reads only the entries and the merges. All
    other settings are the settings of `learn`. A text that describes no byte-pair tokenizer raises CheckpointError."""
    try:
        model = json.loads(text)["model"]
        vocabulary = {str(entry): int(number) for entry, number in model["vocab"].items()}
        tokenizer = learn("", 256)
        tokenizer.model = models.BPE(vocabulary, [(str(first), str(second)) for first, second in model["merges"]])
        if missing := {bytes([byte]) for byte in range(256)} - set(pieces(tokenizer)):
            raise ValueError(f"it lacks {len(missing)} of the 256 bytes")
    except Exception as error:  # the tokenizers library raises Exception itself, not a subclass
        raise CheckpointError(f"the checkpoint's tokenizer cannot be used: {first_line(error)}") from error
    return tokenizer


def pieces(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each class stands for."""
    byte_of = bytes_of_letters()
    entries: Any = [tokenizer.id_to_token(number) for number in range(tokenizer.get_vocab_size())]
    return [bytes(byte_of[letter] for letter in entry) for entry in entries]


def bytes_of_letters() -> dict[str, int]:
    """The byte that each letter of an entry stands for (GPT-2's table).

    A visible letter of Latin-1 stands for the byte that is its code point. Each remaining byte is written as a letter
    with a code point from 256 on, in the order of the bytes.
    """
    itself = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(256 + place): byte for place, byte in enumerate(others)}
