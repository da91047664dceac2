"""Prompts as token ids that fit the model. Knows no log."""

import logging
from collections.abc import Sequence

from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.loading import LoadedModel
from specbound_controller.errors import InputError
from specbound_profiling.prompts.files import Prompt

logger = logging.getLogger(__name__)


def tokenize_prompts(
    prompts: Sequence[Prompt], loaded: LoadedModel, adapter: ModelAdapter, max_new_tokens: int
) -> list[Tensor]:
    """Ids of each prompt, (1, T) int64 on the CPU.

    A prompt too long for the model keeps its last tokens, so that `max_new_tokens` more have room; this is logged.

    Raises:
        InputError: a prompt without tokens, or a model without room for one token of a prompt.
    """
    longest = None if adapter.max_positions is None else adapter.max_positions - max_new_tokens
    if longest is not None and longest < 1:
        raise InputError(
            f"max_new_tokens must be < {adapter.max_positions}, the positions of the model, got {max_new_tokens}"
        )
    all_ids, num_cut = [], 0
    for prompt in prompts:
        ids = loaded.tokenizer(prompt.text, return_tensors="pt")["input_ids"]
        if ids.shape[1] == 0:
            raise InputError(f"a prompt must have at least one token, got none for {prompt.prompt_id}")
        num_cut += longest is not None and ids.shape[1] > longest
        all_ids.append(ids if longest is None else ids[:, -longest:])
    if num_cut:
        logger.warning("%d prompts are longer than %d tokens; their last tokens are used", num_cut, longest)
    return all_ids
