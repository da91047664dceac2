"""Text out of tokens as they come, up to a stop text. Knows no model and no queue."""

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]
"""Token ids -> text, special tokens left out."""

UNFINISHED = "\ufffd"
"""What a tokenizer writes for the first bytes of a character."""


class TextStream:
    """The text of one answer. What is handed out never has to be taken back.

    All pieces together are the text of all tokens at once, cut before the first stop text.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._tokens: list[int] = []
        self._begin, self._read = 0, 0
        """Tokens from which on text is decoded anew, and up to which it is in `_text`."""
        self._text = ""
        self._num_sent = 0
        self.is_stopped = False
        """A stop text has been found; tokens after it are not wanted."""

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    def push(self, token: int) -> str:
        """One more token; the text that is settled by it."""
        assert not self.is_stopped
        self._tokens.append(token)
        before = self._decode(self._tokens[self._begin : self._read])
        now = self._decode(self._tokens[self._begin :])
        if now.endswith(UNFINISHED) or len(now) <= len(before):
            return ""
        self._begin, self._read = self._read, len(self._tokens)
        return self._add(now[len(before) :])

    def finish(self) -> str:
        """What is left, once no token comes any more."""
        num_sent = self._num_sent
        if not self.is_stopped:
            whole = self._decode(self._tokens)
            if whole.startswith(self._text):
                self._add(whole[len(self._text) :])
        self._num_sent = len(self._text)
        return self._text[num_sent:]

    def _add(self, more: str) -> str:
        """Takes up text; what of it can be handed out."""
        start = max(0, len(self._text) - self._longest + 1)
        self._text += more
        found = [place for place in (self._text.find(stop, start) for stop in self._stops) if place >= 0]
        if found:
            self._text, self.is_stopped = self._text[: min(found)], True
        end = len(self._text) - (0 if self.is_stopped else self._num_held_back())
        ready = self._text[self._num_sent : end]
        self._num_sent = max(end, self._num_sent)
        return ready

    def _num_held_back(self) -> int:
        """Characters at the end that a stop text may begin with."""
        for length in range(min(self._longest - 1, len(self._text)), 0, -1):
            if any(stop.startswith(self._text[-length:]) for stop in self._stops if len(stop) > length):
                return length
        return 0
