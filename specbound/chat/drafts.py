"""An answer's text as it comes, each piece with who proposed it. Knows no terminal."""

from collections import deque
from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from specbound.serve.text_stream import TextStream
from specbound_controller.records import StepRecord

MODEL = "model"
"""Source of the tokens that nobody drafted: the full model's own."""
Show = Callable[[str, str], None]
"""Gets a piece of text and its source: a name of `StepRecord.accepted_sources`, or `MODEL`."""


class DraftStream(BaseStreamer):
    """A streamer for one answer. Its `on_step` must be the call's, so that it knows the sources of what comes next."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, show: Show) -> None:
        self._text = TextStream(lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)))
        self._show = show
        self._sources: deque[str] = deque()
        """Of the tokens that the last step has emitted, and that have not come yet."""
        self._source = MODEL
        self._is_begun = False

    def on_step(self, record: StepRecord, row: int) -> None:
        """Before a step's tokens come: drafts first, then the full model's token, unless an end or a limit cut it."""
        self._sources.extend([*record.accepted_sources, MODEL][: record.num_emitted])

    def put(self, value: Any) -> None:
        """The prompt, which is not shown; then every token. value: (1, T), then (1,)"""
        if not self._is_begun:
            self._is_begun = True
            return
        for token in value.flatten().tolist():
            self._source = self._sources.popleft() if self._sources else MODEL  # prefill's token belongs to no step
            self._hand_out(self._text.push(token))

    def end(self) -> None:
        self._hand_out(self._text.finish())

    def _hand_out(self, piece: str) -> None:
        if piece:
            self._show(piece, self._source)
