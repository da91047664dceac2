"""The progress bar of a recording: prompts done, tokens per second, time left. Writes to stderr only."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class _Console(Console):
    """Standard error; where nobody reads it any more, the work goes on (rich would end the process)."""

    def __init__(self) -> None:
        super().__init__(stderr=True)

    def on_broken_pipe(self) -> None:
        self.quiet = True


class RecordingBar:
    """Advances by tokens; a prompt that ends early counts as done."""

    def __init__(self, label: str, num_prompts: int, max_new_tokens: int) -> None:
        self._max_new_tokens, self._num_tokens, self._num_prompts = max_new_tokens, 0, 0
        self._started = time.perf_counter()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[prompts]} prompts, {task.fields[speed]:.0f} tokens/s,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=_Console(),
        )
        self._total = num_prompts
        self._task = self._progress.add_task(
            label, total=num_prompts * max_new_tokens, prompts=f"0/{num_prompts}", speed=0.0
        )

    def token(self, count: int = 1) -> None:
        """So many more tokens."""
        self._num_tokens += count
        speed = self._num_tokens / (time.perf_counter() - self._started)
        self._progress.update(self._task, advance=count, speed=speed)

    def prompt(self) -> None:
        """One more prompt is complete."""
        self._num_prompts += 1
        self._progress.update(
            self._task,
            completed=self._num_prompts * self._max_new_tokens,
            prompts=f"{self._num_prompts}/{self._total}",
        )

    def __enter__(self) -> "RecordingBar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()


@contextmanager
def status(message: str) -> Iterator[None]:
    """Says on stderr what goes on while it goes on."""
    with _Console().status(message):
        yield
