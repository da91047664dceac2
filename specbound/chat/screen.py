"""Pieces of an answer on standard output, shaded by who drafted them where the terminal has colours."""

from rich.console import Console

from specbound.chat.drafts import MODEL
from specbound_controller.trees.exit_growth import EXIT

SHADES = {
    "context": ("looked up in the text so far", "#1b1b1b on #bfe3c5"),
    EXIT: ("an early exit", "#1b1b1b on #f7dfa8"),
    "other": ("other sources that cost no layer", "#1b1b1b on #c9dcf3"),
}
"""Source of a draft -> what it is called, and its shade; `other` stands for all that have none of their own."""


class Screen:
    """Where an answer appears."""

    def __init__(self, shows_drafts: bool) -> None:
        """Looks at standard output. shows_drafts: shade, unless it is no terminal or NO_COLOR is set."""
        self._console = Console(markup=False, emoji=False, highlight=False)
        has_colours = self._console.is_terminal and self._console.color_system and not self._console.no_color
        self.is_shaded = shows_drafts and bool(has_colours)
        self._is_line_open = False

    def legend(self) -> str:
        """What the shades mean, in one line."""
        parts = [self._shaded(f" {words} ", shade) for words, shade in SHADES.values()]
        return "drafted by: " + " ".join(parts) + " · unshaded: the full model"

    def show(self, piece: str, source: str) -> None:
        """One piece, at once."""
        if self.is_shaded and source != MODEL:
            piece = self._shaded(piece, SHADES.get(source, SHADES["other"])[1])
        print(piece, end="", flush=True)
        self._is_line_open = True

    def end_line(self) -> None:
        """The answer is whole, or broken off."""
        if self._is_line_open:
            print(flush=True)
        self._is_line_open = False

    def _shaded(self, text: str, style: str) -> str:
        with self._console.capture() as captured:  # rich ends the process where standard output is closed
            self._console.out(text, style=style, end="")
        return captured.get()
