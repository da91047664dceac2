"""A stand-in for CUDA graphs on the CPU: records the operations of a computation and runs just these again.

What a graph cannot see, it does not see either: Python values of the first run are frozen, only memory is read anew.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Runs operations and keeps them, with the tensors that they read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def run_again(self) -> None:
        for func, args, kwargs, result in self.operations:
            again = func(*args, **kwargs)
            read = storages(tree_leaves((args, kwargs)))
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.untyped_storage().data_ptr() not in read:
                    old.copy_(new)


def storages(leaves: Iterable[object]) -> set[int]:
    return {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor)}


def tape_capture(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """As `GraphCapture`."""
    with torch.inference_mode(), Tape() as tape:
        output = compute()

    def replay() -> Tensor:
        tape.run_again()
        return output

    return replay
