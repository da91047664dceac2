"""What the rows of a batch share: criteria, and sometimes processors, that look at all rows, as in transformers.

Criteria are called once for every length, as soon as all rows have reached it; rows that drafted further are cut where
the criteria end them. Processors that cannot be told apart by rows are given all of them, so that rows then go in step.
Knows tokens and logits; nothing of layers and drafts.
"""

from collections.abc import Sequence as SequenceOf

import torch
from torch import Tensor

from specbound.decoding.request import Batch
from specbound.decoding.sequence import Sequence

# R rows (sequences), T tokens of the longest prompt, V vocabulary


class Together:
    """The rows of one call, as processors and criteria of the whole batch see them."""

    def __init__(self, batch: Batch, sequences: SequenceOf[Sequence]) -> None:
        """Sequences without new tokens."""
        self._batch, self._sequences = batch, sequences
        self._criteria, self._processors = batch.criteria, batch.processors
        num_rows, self._first = batch.input_ids.shape
        most = max(sequence.request.max_new_tokens for sequence in sequences)
        self._ids = torch.full((num_rows, self._first + most), batch.padding_token, device=batch.input_ids.device)
        self._ids[:, : self._first] = batch.input_ids
        self._num_judged = 0
        """New tokens up to which all rows have been looked at."""
        self._ends: list[int | None] = [None] * num_rows
        """How many new tokens each row has, where that is settled."""
        self._scores: list[Tensor] = []

    @property
    def is_in_step(self) -> bool:
        """Whether rows wait for each other at every token, because their processors see all of them."""
        return bool(self._processors)

    @property
    def is_finished(self) -> bool:
        return all(end is not None for end in self._ends)

    def is_ended(self, row: int) -> bool:
        """Whether a row's tokens are complete, though the batch may go on."""
        return self._ends[row] is not None

    def commit(self, all_logits: SequenceOf[Tensor]) -> None:
        """Appends the next token of every row, in step. all_logits: (1, V) of each row"""
        end = self._first + self._num_judged
        logits = torch.cat(list(all_logits)).to(torch.float32, copy=True)
        scores = self._processors(self._ids[:, :end], logits)
        for row, sequence in enumerate(self._sequences):
            sequence.commit_scores(scores[row : row + 1], all_logits[row])
            if self.is_ended(row) and self._batch.has_end_token:
                sequence.tokens[-1] = self._batch.padding_token
        self.judge()

    def judge(self) -> None:
        """Calls the criteria for every length that all rows have reached, and ends rows by them and by themselves."""
        while not self.is_finished:
            tokens = [self._token(row) for row in range(len(self._sequences))]
            if any(token is None for token in tokens):
                break
            self._num_judged += 1
            end = self._first + self._num_judged
            self._ids[:, end - 1] = torch.tensor(tokens, device=self._ids.device)
            is_done = self._criteria(self._ids[:, :end], self._scores_so_far())
            for row, sequence in enumerate(self._sequences):
                if self._ends[row] is None and (bool(is_done[row]) or sequence.ends_at(self._num_judged)):
                    self._ends[row] = self._num_judged
        self._cut()

    def _token(self, row: int) -> int | None:
        """The next token to look at; None where a row has not come so far."""
        if self.is_ended(row) and self._batch.has_end_token:
            return self._batch.padding_token
        return self._sequences[row].new_token(self._num_judged)

    def _scores_so_far(self) -> tuple[Tensor, ...] | None:
        """What transformers hands to criteria where scores were asked for; -inf for rows that have ended."""
        if not self._sequences[0].request.output_scores:
            return None
        nothing = torch.full_like(self._sequences[0].scores[0], -torch.inf)
        at = self._num_judged - 1
        rows = [sequence.scores[at] if at < len(sequence.scores) else nothing for sequence in self._sequences]
        self._scores.append(torch.cat(rows))
        return tuple(self._scores)

    def _cut(self) -> None:
        """Drops what rows hold beyond their ends. Where no token ends a row, transformers' rows go on to the last."""
        for sequence, end in zip(self._sequences, self._ends, strict=True):
            if not self._batch.has_end_token:
                end = self._num_judged if self.is_finished else None
            elif self.is_in_step and not self.is_finished:
                end = None
            if end is not None:
                sequence.cut(end)
