"""Tokenizer and token streams of the demonstration corpus: text in, seeded batches of token ids out."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from specbound_train.demo.corpus import KINDS, Document

END_OF_TEXT = "<|endoftext|>"
OWN = "own"
"""The kind of text that the model has written itself."""


class Batch(NamedTuple):
    """Rows of one training step."""

    token_ids: Tensor
    """(B, T + 1) int64."""
    is_own: Tensor
    """(B,) bool: text of the model's own, from which only the exits learn."""


def train_tokenizer(documents: list[Document], vocab_size: int, context_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, trained on equal amounts of each kind of training text."""
    texts = {kind: [d.text for d in documents if d.kind == kind and d.split == "train"] for kind in KINDS}
    budget = min(sum(map(len, kind_texts)) for kind_texts in texts.values())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_up_to(budget, texts), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
    )


def _up_to(budget: int, texts: dict[str, list[str]]) -> Iterator[str]:
    for kind_texts in texts.values():
        used = 0
        for text in kind_texts:
            yield text[: budget - used]
            used += len(text)
            if used >= budget:
                break


def encode_split(documents: list[Document], split: str, tokenizer: PreTrainedTokenizerFast) -> dict[str, np.ndarray]:
    """The documents of a split as one uint16 stream per kind, each document followed by the end-of-text token."""
    streams = {}
    for kind in KINDS:
        texts = [d.text for d in documents if d.kind == kind and d.split == split]
        encoded = tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        ids: Iterable[list[int]] = ([*e.ids, tokenizer.eos_token_id] for e in encoded)
        streams[kind] = np.fromiter((i for document in ids for i in document), dtype=np.uint16)
    return streams


def load_or_encode(
    documents: list[Document], split: str, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> dict[str, np.ndarray]:
    """`encode_split`, kept in `folder` between runs and processes as one .npy per kind."""
    paths = {kind: folder / f"tokens-{split}-{kind}.npy" for kind in KINDS}
    if not all(path.exists() for path in paths.values()):
        for kind, stream in encode_split(documents, split, tokenizer).items():
            partial = paths[kind].with_suffix(".partial.npy")
            np.save(partial, stream)
            partial.rename(paths[kind])
    return {kind: np.load(path, mmap_mode="r") for kind, path in paths.items()}


class MixedBatches(IterableDataset[Batch]):
    """Endless training batches, each a pure function of (seed, step), so that a resumed run sees the same data.

    Yields this rank's share of the global batch. `shares`: kind of text -> share of the rows.
    """

    def __init__(
        self,
        streams: dict[str, np.ndarray],
        shares: dict[str, float],
        batch_size: int,
        length: int,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.streams, self.length, self.seed, self.first_step = streams, length, seed, first_step
        self.kinds, self.shares = tuple(shares), np.array(list(shares.values())) / sum(shares.values())
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __iter__(self) -> Iterator[Batch]:
        step = self.first_step
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> Batch:
        """This rank's rows of the global batch of one step."""
        rng = np.random.default_rng((self.seed, step))
        drawn = rng.choice(len(self.kinds), size=self.batch_size, p=self.shares)
        starts = rng.random(self.batch_size)
        rows, is_own = [], []
        for index in range(self.rank, self.batch_size, self.world_size):
            kind = self.kinds[drawn[index]]
            stream = self.streams[kind]
            start = int(starts[index] * (len(stream) - self.length - 1))
            rows.append(stream[start : start + self.length + 1].astype(np.int64))
            is_own.append(kind == OWN)
        return Batch(torch.from_numpy(np.stack(rows)), torch.tensor(is_own))


def validation_batches(streams: dict[str, np.ndarray], length: int, rows_per_kind: int) -> dict[str, Tensor]:
    """Evenly spread windows of each held-out stream. (rows_per_kind, length + 1) int64 per kind."""
    batches = {}
    for kind, stream in streams.items():
        starts = np.linspace(0, len(stream) - length - 1, rows_per_kind).astype(int)
        batches[kind] = torch.from_numpy(np.stack([stream[s : s + length + 1].astype(np.int64) for s in starts]))
    return batches
