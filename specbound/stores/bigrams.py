"""The model's best tokens after each single token: made once per model, kept for this user like cost tables."""

import contextlib
import copy
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from specbound.models.fingerprint import model_fingerprint
from specbound.stores.folder import read_store, write_store
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from specbound_controller.sources.bigrams import BigramTable
from specbound_controller.sources.source import MOST_CANDIDATES

BATCH = 256
"""Tokens that one forward pass answers for."""
MOST_SECONDS = 120.0
"""Time for a table; tokens that are left then have no candidates. Vocabularies begin with their frequent tokens."""

# V vocabulary, B tokens of a batch, K candidates


@torch.inference_mode()
def make_bigrams(
    model: PreTrainedModel, most_seconds: float = MOST_SECONDS, say: Callable[[int, int], None] | None = None
) -> BigramTable:
    """The table of a model: each token is read alone, after the token that begins a text where there is one.

    On a CPU the products run in bfloat16 where that is faster: the table is a guess, verification reads no such thing.

    Args:
        most_seconds: after which the tokens that are left get no candidates (-1).
        say: called with tokens done and tokens in all.
    """
    device = model.get_input_embeddings().weight.device
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    count = min(MOST_CANDIDATES, vocabulary)
    best = np.full((vocabulary, count), -1, dtype=np.int32)
    started = time.perf_counter()
    with _fastest_products(model, device):
        begin = _beginning(model, device)
        for first in range(0, vocabulary, BATCH):
            if time.perf_counter() - started > most_seconds:
                break
            tokens = torch.arange(first, min(first + BATCH, vocabulary), device=device)
            best[first : first + len(tokens)] = _best_after(model, tokens, count, begin).cpu().numpy()
            if say is not None:
                say(first + len(tokens), vocabulary)
    return BigramTable(best)


def local_bigrams(model: PreTrainedModel, say: Callable[[str], None]) -> BigramTable:
    """The table of this model, made before or now; where it cannot be kept it is made all the same."""
    fingerprint = model_fingerprint(model)
    folder = kept_folder(fingerprint)
    try:
        return read_bigrams(folder, fingerprint)
    except InputError:
        say("bigrams: reading the model's best tokens after each single token, once for this model")
    table = make_bigrams(model)
    with contextlib.suppress(InputError):  # a home that cannot be written costs the time again, nothing else
        save_bigrams(folder, table, fingerprint)
    return table


def save_bigrams(folder: Path, table: BigramTable, fingerprint: str) -> None:
    """Writes a table, whole or not at all."""
    write_store(folder, "bigrams", {"best": table.best}, {"model_fingerprint": fingerprint})


def read_bigrams(folder: Path, fingerprint: str) -> BigramTable:
    """The table of a model that lies in a folder, memory-mapped. Raises InputError where there is none."""
    arrays, config = read_store(folder, "bigrams", ("best",))
    held = str(config.get("model_fingerprint"))
    if not same_model(held, fingerprint):
        raise InputError(f"bigrams must be of the model {fingerprint[:16]}, got {held[:16]} ({folder})")
    return BigramTable(arrays["best"])


def has_bigrams(model: PreTrainedModel) -> bool:
    """Whether the table of a model was made before."""
    return kept_folder(model_fingerprint(model)).is_dir()


def kept_folder(fingerprint: str) -> Path:
    """Where this user's table for a model is kept."""
    name = hashlib.sha256(fingerprint.encode()).hexdigest()[:16]
    return Path("~/.cache/specbound").expanduser() / f"bigrams-{name}"


def _beginning(model: PreTrainedModel, device: torch.device) -> Cache | None:
    """Keys and values of the token that begins texts, of one row; None where there is none."""
    begin = model.config.bos_token_id
    if not isinstance(begin, int):
        return None
    return model(torch.tensor([[begin]], device=device), use_cache=True, logits_to_keep=1).past_key_values


def _best_after(model: PreTrainedModel, tokens: Tensor, count: int, begin: Cache | None) -> Tensor:
    """(B,) -> (B, K)"""
    cache = copy.deepcopy(begin)
    if cache is not None:
        cache.batch_repeat_interleave(len(tokens))
    logits = model(tokens[:, None], past_key_values=cache, use_cache=cache is not None, logits_to_keep=1).logits[:, -1]
    return logits.topk(count).indices


@contextlib.contextmanager
def _fastest_products(model: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """fp32 weights on a CPU: bfloat16 products where one batch of them is faster."""
    if device.type != "cpu" or model.get_input_embeddings().weight.dtype != torch.float32:
        yield
        return
    tokens = torch.arange(min(32, model.get_input_embeddings().weight.shape[0]))
    seconds = []
    for is_short in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_short):
            _best_after(model, tokens, 1, None)  # the first call packs weights
            started = time.perf_counter()
            _best_after(model, tokens, 1, None)
            seconds.append(time.perf_counter() - started)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=seconds[0] < seconds[1]):
        yield
