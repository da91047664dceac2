"""Prompts as token ids that fit the model. Knows no log."""

import logging
from collections.abc import Sequence

from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.loading import LoadedModel
from specbound_controller.errors import InputError
from specbound_profiling.prompts.files import Prompt

logger = logging.getLogger(__name__)


MANY_CHARACTERS = 2**20
"""Longer texts are cut before they are tokenised where the model reads only their end: millions of tokens take minutes
and gigabytes."""
CHARACTERS_PER_TOKEN = 64
"""No text has so many, on average over as many tokens as a model has positions."""


def text_ids(text: str, loaded: LoadedModel, what: str) -> Tensor:
    """Token ids of a text, (1, T) int64.

    what: whose text it is, for errors.

    Raises:
        InputError: it has no tokens, or one that the model's embedding has no row for.
    """
    ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"]
    return known_ids(ids, loaded, what)


def known_ids(ids: Tensor, loaded: LoadedModel, what: str) -> Tensor:
    """The same ids, (1, T). Raises as `text_ids` does."""
    if ids.shape[1] == 0:
        raise InputError(f"{what} must have at least one token, got none")
    num_rows = loaded.model.get_input_embeddings().num_embeddings
    largest = int(ids.max())
    if largest >= num_rows:
        raise InputError(
            f"{what} has the token {loaded.tokenizer.convert_ids_to_tokens(largest)!r}, number {largest}, but the "
            f"embedding of model {loaded.name!r} has {num_rows}: tokenizer and model do not belong together"
        )
    return ids


def tokenize_prompts(
    prompts: Sequence[Prompt], loaded: LoadedModel, adapter: ModelAdapter, max_new_tokens: int
) -> list[Tensor]:
    """Ids of each prompt, (1, T) int64 on the CPU.

    A prompt too long for the model keeps its last tokens, so that `max_new_tokens` more have room; this is logged.

    Raises:
        InputError: a prompt without tokens, or with one that the model does not know, or a model without room for one
            token of a prompt.
    """
    longest = None if adapter.max_positions is None else adapter.max_positions - max_new_tokens
    if longest is not None and longest < 1:
        raise InputError(
            f"max_new_tokens must be < {adapter.max_positions}, the positions of the model, got {max_new_tokens}"
        )
    all_ids, num_cut = [], 0
    for prompt in prompts:
        text = prompt.text
        if longest is not None and len(text) > max(MANY_CHARACTERS, longest * CHARACTERS_PER_TOKEN):
            text, num_cut = text[-longest * CHARACTERS_PER_TOKEN :], num_cut + 1
        ids = text_ids(text, loaded, f"prompt {prompt.prompt_id}")
        num_cut += longest is not None and ids.shape[1] > longest
        all_ids.append(ids if longest is None else ids[:, -longest:])
    if num_cut:
        logger.warning("%d prompts are longer than %d tokens; their last tokens are used", num_cut, longest)
    return all_ids
