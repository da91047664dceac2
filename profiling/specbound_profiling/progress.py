"""How far the work is, on stderr: one line that changes on a terminal, a line every 15 seconds elsewhere.

Work may have parts of its own (`working` inside `working`); all of it is one display, with the time that is left where
that is known. Knows nothing of what is done.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

EVERY_S = 15.0
"""Seconds between two lines where standard error is no terminal."""
REFRESH_PER_S = 2.0
"""Redraws of the line on a terminal."""


class _Console(Console):
    """Standard error; where nobody reads it any more, the work goes on (rich would end the process)."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Work:
    """Something that goes on: a name, how much of it is done, and what is to be said of it."""

    def __init__(self, label: str, total: float | None = None) -> None:
        """total: in any unit; None where it is not known."""
        self.label, self.total, self.note = label, total, ""
        self.done = 0.0
        self.left_s: Callable[[], float | None] = self._left_by_pace
        """Seconds that are left; None where nobody knows."""
        self._started = time.perf_counter()

    def advance(self, count: float = 1.0) -> None:
        """So much more is done."""
        self.done += count

    def _left_by_pace(self) -> float | None:
        if not self.total or self.done <= 0:
            return None
        elapsed = time.perf_counter() - self._started
        return elapsed / self.done * max(0.0, self.total - self.done)

    def text(self, left: float | None) -> str:
        """One line. left: seconds to name; None names none."""
        parts = [self.label]
        if self.total:
            parts.append(f"{min(1.0, self.done / self.total):.0%}")
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join([*parts, *([self.note] if self.note else [])])


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `1.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


LONG_S = 600.0
"""Work that takes longer says so as soon as that is known."""


def warn_of_long_work(seconds: float, shorter: str) -> None:
    """One line on stderr where work will take long, unless it is a part of other work, whose options are others.

    shorter: the options that shorten it
    """
    if seconds > LONG_S and len(_display.works) <= 1:
        with contextlib.suppress(OSError, ValueError):  # nobody reads it any more
            print(f"this will take about {duration(seconds)}; {shorter}", file=sys.stderr, flush=True)


class _Display:
    """All work that goes on in this process, shown while there is any."""

    def __init__(self) -> None:
        self.works: list[Work] = []
        self._live: Live | None = None
        self._ended: threading.Event | None = None

    def begin(self, work: Work) -> None:
        self.works.append(work)
        if len(self.works) == 1:
            self._start()

    def end(self, work: Work) -> None:
        self.works.remove(work)
        if not self.works:
            self._stop()

    def line(self) -> str:
        """All work, the whole before its parts; the first that knows how long it takes says so."""
        texts, is_said = [], False
        for work in list(self.works):
            left = None if is_said else work.left_s()
            is_said = is_said or left is not None
            texts.append(work.text(left))
        return " · ".join(texts)

    def __rich__(self) -> Text:
        return Text(self.line())

    def _start(self) -> None:
        console = _Console()
        if console.is_terminal:
            spinner = Spinner("dots", text=self)
            self._live = Live(spinner, console=console, refresh_per_second=REFRESH_PER_S, transient=True)
            self._live.start()
            return
        self._ended = ended = threading.Event()
        threading.Thread(target=self._speak, args=(ended,), daemon=True).start()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
        if self._ended is not None:
            self._ended.set()
        self._live = self._ended = None

    def _speak(self, ended: threading.Event) -> None:
        while not ended.wait(EVERY_S):
            try:
                print(self.line(), file=sys.stderr, flush=True)
            except (OSError, ValueError):  # nobody reads it any more
                return


_display = _Display()


@contextmanager
def working(label: str, total: float | None = None) -> Iterator[Work]:
    """Says on stderr what goes on while it goes on."""
    work = Work(label, total)
    _display.begin(work)
    try:
        yield work
    finally:
        _display.end(work)


@contextmanager
def status(message: str) -> Iterator[None]:
    """The same for work whose end nobody knows."""
    with working(message):
        yield


class RecordingBar:
    """Advances by tokens; a prompt that ends early counts as done."""

    def __init__(self, label: str, num_prompts: int, max_new_tokens: int) -> None:
        self._max_new_tokens, self._num_tokens, self._num_prompts = max_new_tokens, 0, 0
        self._started = time.perf_counter()
        self._total = num_prompts
        self._label = label
        self._work: Work | None = None

    def token(self, count: int = 1) -> None:
        """So many more tokens."""
        self._num_tokens += count
        self._show(count)

    def prompt(self) -> None:
        """One more prompt is complete."""
        self._num_prompts += 1
        if self._work is not None:
            self._work.done = self._num_prompts * self._max_new_tokens
            if self._num_prompts == 1:
                warn_of_long_work(self._work.left_s() or 0.0, "--num-prompts and --max-new-tokens shorten it")
        self._show(0)

    def _show(self, count: int) -> None:
        if self._work is None:
            return
        self._work.advance(count)
        speed = self._num_tokens / (time.perf_counter() - self._started)
        self._work.note = f"{self._num_prompts}/{self._total} prompts, {speed:.0f} tokens/s"

    def __enter__(self) -> "RecordingBar":
        self._started = time.perf_counter()
        self._context = working(self._label, self._total * self._max_new_tokens)
        self._work = self._context.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(None, None, None)
