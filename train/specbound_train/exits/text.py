"""Text to learn from: what a model wrote, after its prompts, and natural text in pieces. Knows no exit and no loss."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel
from specbound.stores.text import text_rows
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from specbound_controller.lookup import ContextLookup
from specbound_controller.text_files import read_json, read_text
from specbound_profiling.prompts.files import load_prompts, prompts_hash
from specbound_profiling.prompts.tokenization import tokenize_prompts
from specbound_train.exits.config import TrainExitsConfig

MIN_PIECES = 8
"""Fewest pieces of text to learn from and to judge by, together."""
SORTED_BATCHES = 16
"""Pieces of so many batches are sorted by length, so that those of one batch are padded little."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A piece of text."""

    group: str
    """What it belongs to: pieces of one prompt judge together or are learned from together."""
    ids: np.ndarray
    """Tokens. (T,) int64"""
    weights: np.ndarray
    """Of the position of each token in the loss, by what comes after it. (T,) float32; 0 at the last and the first"""


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """All pieces, in a fixed order."""

    training: tuple[Piece, ...]
    held_out: tuple[Piece, ...]
    counts: np.ndarray
    """How often each token stands in the training text where something is to be drafted. (V,)"""

    @property
    def checksum(self) -> str:
        """Of all tokens. 64 hex digits"""
        digest = hashlib.sha256()
        for piece in (*self.training, *self.held_out):
            digest.update(np.ascontiguousarray(piece.ids).tobytes() + b"|")
        return digest.hexdigest()

    @property
    def num_positions(self) -> int:
        """Positions of the training text that count."""
        return sum(int((piece.weights > 0).sum()) for piece in self.training)


def load_text(config: TrainExitsConfig, loaded: LoadedModel, adapter: ModelAdapter) -> Text:
    """Reads, cuts and splits the text.

    Raises:
        InputError: nothing to read, text of another model, prompts that are gone or have changed, too little text.
    """
    pieces = [*_own_text(config, loaded, adapter), *_natural_text(config, loaded)]
    groups = sorted({piece.group for piece in pieces})
    random.Random(f"{config.seed} held out").shuffle(groups)
    held_out = set(groups[: max(1, round(config.validation_share * len(groups)))])
    parts = [[piece for piece in pieces if (piece.group in held_out) == is_held] for is_held in (False, True)]
    if len(pieces) < MIN_PIECES or not all(parts):
        raise InputError(
            f"text must be at least {MIN_PIECES} pieces to learn from and to judge by, got {len(pieces)}: let the "
            "model write more (specbound write --num-tokens)"
        )
    counts = np.zeros(adapter.vocab_size, dtype=np.int64)
    for piece in parts[0]:
        counts += np.bincount(piece.ids[1:][piece.weights[:-1] > config.prompt_weight], minlength=adapter.vocab_size)
    return Text(tuple(parts[0]), tuple(parts[1]), counts)


def _own_text(config: TrainExitsConfig, loaded: LoadedModel, adapter: ModelAdapter) -> Iterator[Piece]:
    if config.own_text is None:
        return
    folder = Path(config.own_text).expanduser()
    manifest = _manifest(folder)
    if not same_model(model_fingerprint(loaded.model), str(manifest["model_fingerprint"])):
        raise InputError(f"own_text must be of {loaded.name}, got {folder}, which another model wrote")
    prompts = load_prompts(str(manifest["prompts"]))
    if prompts_hash(prompts) != manifest["prompts_hash"]:
        raise InputError(f"prompts of {folder} must be those that were answered, got others in {manifest['prompts']}")
    longest = int(manifest["max_new_tokens"])
    ids = tokenize_prompts(prompts, loaded, adapter, longest, bool(manifest["raw"]))
    prompt_of = {prompt.prompt_id: each[0].tolist() for prompt, each in zip(prompts, ids, strict=True)}
    found = False
    for prompt_id, answer in text_rows(folder):
        found = True
        prompt = prompt_of[prompt_id][-max(1, config.sequence_length - len(answer)) :]
        tokens = [*prompt, *answer][: config.sequence_length]
        if len(tokens) - len(prompt) >= 2:
            yield _piece(prompt_id, tokens, len(prompt), config)
    if not found:
        raise InputError(f"own_text must hold text that specbound write left, got {folder} without any shard")


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.exists():
        raise InputError(f"own_text must be a folder that specbound write left, got {folder} (no manifest.json)")
    content = read_json(path)
    wanted = {"model_fingerprint", "prompts", "prompts_hash", "max_new_tokens", "raw"}
    if not isinstance(content, dict) or not wanted <= set(content):
        raise InputError(f"{path} is not the manifest of specbound write")
    return content


def _natural_text(config: TrainExitsConfig, loaded: LoadedModel) -> Iterator[Piece]:
    for name in config.text:
        path = Path(name).expanduser()
        ids = loaded.tokenizer(read_text(path), add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) < config.sequence_length:
            raise InputError(
                f"text must be files of at least {config.sequence_length} tokens, got {len(ids)} in {path}"
            )
        length = config.sequence_length
        for number, start in enumerate(range(0, len(ids) - 1, length)):
            part = ids[start : start + length]
            if len(part) > 2:
                yield _piece(f"{path.name} {number}", part, 0, config)


def _piece(group: str, tokens: Sequence[int], prompt_length: int, config: TrainExitsConfig) -> Piece:
    ids = np.array(tokens, dtype=np.int64)
    weights = np.full(len(ids), 1.0, dtype=np.float32)
    weights[:prompt_length] = config.prompt_weight
    weights[0] = weights[-1] = 0.0  # before the first there is nothing verified, after the last nothing is known
    if config.miss_weight != 1.0:
        lookup, known = ContextLookup(), list(tokens)
        for place in range(1, len(known) - 1):
            if lookup.find(known[: place + 1]).token != known[place + 1]:
                weights[place] *= config.miss_weight
    return Piece(group, ids, weights)


def batches(pieces: Sequence[Piece], config: TrainExitsConfig, first_step: int = 0) -> Iterator[list[Piece]]:
    """Batches for ever, pass after pass in new orders; the same for the same seed. first_step: batches left out"""
    step = number_of_pass = 0
    while True:
        order = list(range(len(pieces)))
        random.Random(f"{config.seed} pass {number_of_pass}").shuffle(order)
        of_pass = _grouped([pieces[index] for index in order], config.batch_tokens)
        random.Random(f"{config.seed} order {number_of_pass}").shuffle(of_pass)
        for batch in of_pass:
            if step >= first_step:
                yield batch
            step += 1
        number_of_pass += 1


def _grouped(pieces: Sequence[Piece], batch_tokens: int) -> list[list[Piece]]:
    """Pieces of like length together, at most so many tokens with the padding."""
    window = SORTED_BATCHES * max(1, batch_tokens // max(len(piece.ids) for piece in pieces))
    groups: list[list[Piece]] = []
    for first in range(0, len(pieces), window):
        batch: list[Piece] = []
        for piece in sorted(pieces[first : first + window], key=lambda each: len(each.ids)):
            if batch and (len(batch) + 1) * len(piece.ids) > batch_tokens:
                groups.append(batch)
                batch = []
            batch.append(piece)
        groups.append(batch)
    return groups
