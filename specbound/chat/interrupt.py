"""Ctrl-C that ends an answer and nothing else. Knows no terminal."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class CtrlC(StoppingCriteria):
    """Ends an output after the step during which Ctrl-C was pressed; all before it is kept, the cache too."""

    def __init__(self) -> None:
        self.is_pressed = False

    def __call__(self, input_ids: Tensor, scores: Any, **others: Any) -> Tensor:
        """input_ids: (R, T). Returns (R,) bool"""
        return torch.full((input_ids.shape[0],), self.is_pressed, device=input_ids.device)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While an answer is written; a second Ctrl-C is a `KeyboardInterrupt`, as without us.

        Signals go to a process's main thread alone, and a program that has its own handler, or ignores them, keeps it.
        """
        is_ours = threading.current_thread() is threading.main_thread()
        if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._press)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _press(self, number: int, frame: Any) -> None:
        if self.is_pressed:
            raise KeyboardInterrupt
        self.is_pressed = True
