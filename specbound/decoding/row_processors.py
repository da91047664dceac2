"""Logits processors of a batch, for one of its rows at a time: which can be told apart by rows, and how.

Rows of a batch accept drafts of their own length, so that a processor sees one row, (1, T) and (1, V). transformers'
own processors treat every row for itself; some hold numbers for each row. What anybody else wrote may look at the
whole batch: it cannot be told apart, and such a batch runs in step (`together`).
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

from transformers import LogitsProcessorList
from transformers.generation import logits_process

# B rows (sequences)

STATELESS_PROCESSORS = (
    logits_process.EncoderNoRepeatNGramLogitsProcessor,
    logits_process.EncoderRepetitionPenaltyLogitsProcessor,
    logits_process.EpsilonLogitsWarper,
    logits_process.EtaLogitsWarper,
    logits_process.ExponentialDecayLengthPenalty,
    logits_process.ForcedBOSTokenLogitsProcessor,
    logits_process.ForcedEOSTokenLogitsProcessor,
    logits_process.InfNanRemoveLogitsProcessor,
    logits_process.LogitNormalization,
    logits_process.MinLengthLogitsProcessor,
    logits_process.MinNewTokensLengthLogitsProcessor,
    logits_process.MinPLogitsWarper,
    logits_process.NoBadWordsLogitsProcessor,
    logits_process.NoRepeatNGramLogitsProcessor,
    logits_process.RepetitionPenaltyLogitsProcessor,
    logits_process.SequenceBiasLogitsProcessor,
    logits_process.SuppressTokensAtBeginLogitsProcessor,
    logits_process.SuppressTokensLogitsProcessor,
    logits_process.TemperatureLogitsWarper,
    logits_process.TopHLogitsWarper,
    logits_process.TopKLogitsWarper,
    logits_process.TopPLogitsWarper,
    logits_process.TypicalLogitsWarper,
    logits_process.WatermarkLogitsProcessor,
)
"""Processors that depend on nothing but the prefix and the logits: drafts may call them as often as they like."""
WARPERS_OF_ANY_ROWS = (
    logits_process.SuppressTokensLogitsProcessor,
    logits_process.TemperatureLogitsWarper,
    logits_process.TopKLogitsWarper,
)
"""Of these, those that look at no prefix and give a row the same numbers beside others: they choose and divide only."""


def _repetition(processor: Any, row: int, num_rows: int) -> None:
    if not isinstance(processor.prompt_ignore_length, int | None):
        processor.prompt_ignore_length = processor.prompt_ignore_length[row : row + 1]


def _prompt_of_row(processor: Any, row: int, num_rows: int) -> None:
    row //= max(1, num_rows // processor.encoder_input_ids.shape[0])  # several samples of a prompt stand together
    processor.encoder_input_ids = processor.encoder_input_ids[row : row + 1]


def _ngrams_of_row(processor: Any, row: int, num_rows: int) -> None:
    ngrams = processor.generated_ngrams[row // (num_rows // processor.batch_size)]
    processor.generated_ngrams, processor.batch_size = [ngrams], 1


def _allowed_of_row(processor: Any, row: int, num_rows: int) -> None:
    allowed = processor._prefix_allowed_tokens_fn
    processor._prefix_allowed_tokens_fn = lambda _, ids: allowed(row, ids)


def _state_of_row(processor: Any, row: int, num_rows: int) -> None:
    """A watermark's state begins with its first call: one for each row."""


OF_ROW: dict[type, Callable[[Any, int, int], None]] = {
    logits_process.RepetitionPenaltyLogitsProcessor: _repetition,
    logits_process.EncoderRepetitionPenaltyLogitsProcessor: _prompt_of_row,
    logits_process.EncoderNoRepeatNGramLogitsProcessor: _ngrams_of_row,
    logits_process.PrefixConstrainedLogitsProcessor: _allowed_of_row,
    logits_process.SynthIDTextWatermarkLogitsProcessor: _state_of_row,
}
"""Processors that hold something for each row: what turns a copy into one row's. (copy, row, B)"""


def are_separable(processors: Iterable[Any]) -> bool:
    """Whether processors of a batch can be given one row at a time."""
    return all(
        type(processor) in STATELESS_PROCESSORS
        or (type(processor) in OF_ROW and getattr(processor, "state", None) is None)
        for processor in processors
    )


def of_row(processors: Iterable[Any], row: int, num_rows: int) -> LogitsProcessorList:
    """Separable processors of a batch of so many rows, for one of them."""
    own = LogitsProcessorList()
    for processor in processors:
        cut = OF_ROW.get(type(processor))
        if cut is not None:
            processor = copy.copy(processor)
            cut(processor, row, num_rows)
        own.append(processor)
    return own
