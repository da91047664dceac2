"""A job in the batch: what its tokens say, piece by piece, and how it ended. Knows no queue and nobody who waits."""

import time
from collections.abc import Sequence

import torch

from specbound.decoding.loop import Row
from specbound.serve.jobs import End, Job, Piece
from specbound.serve.logprobs import ChancesOfAnswer, TokenChance
from specbound.serve.text_stream import TextStream


class RunningAnswer:
    """One answer, from its first token on."""

    def __init__(self, job: Job, row: Row, text: TextStream, chances: ChancesOfAnswer | None) -> None:
        """chances: where they are asked for"""
        self.job, self.row, self.text, self._chances = job, row, text, chances
        self.first_token_at = time.perf_counter()
        self._untold: tuple[TokenChance, ...] = ()
        """Of tokens whose text is not settled."""

    @property
    def is_ended(self) -> bool:
        return self.row.sequence.is_finished or self.text.is_stopped

    def take(self, tokens: Sequence[int]) -> Piece | None:
        """New tokens, up to a stop text; more of the answer, where their text is settled."""
        before, text = self.text.num_tokens, ""
        for token in tokens:
            text += self.text.push(token)
            if self.text.is_stopped:
                break
        if self._chances is not None:
            count = self.text.num_tokens - before
            self._untold += self._chances.push(tokens[:count], torch.cat(self.row.sequence.take_logits()[:count]))
        return self._piece(text) if text else None

    def rest(self) -> Piece | None:
        """What is left, once no token comes any more."""
        text = self.text.finish()
        return self._piece(text) if text or self._untold else None

    def _piece(self, text: str) -> Piece:
        piece, self._untold = Piece(text, self._untold), ()
        return piece

    def end(self) -> End:
        """How the answer ended."""
        sequence, stats = self.row.sequence, self.row.stats
        is_stop = self.text.is_stopped or sequence.tokens[-1] in sequence.eos_token_ids
        num_rejected = stats.num_drafted - stats.num_accepted
        return End("stop" if is_stop else "length", self.text.num_tokens, stats.num_accepted, num_rejected)
