"""What prices come to where several sequences share the calls: worked out once for each number of them."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class ByRows(Generic[T]):
    """Number of sequences -> what a function makes of it, which nobody may change.

    Copies of a policy share it: in a batch each row has one, and all are told whenever a row comes or goes.
    """

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def __call__(self, num_rows: int) -> T:
        if num_rows not in self._made:
            self._made[num_rows] = self._make(num_rows)
        return self._made[num_rows]

    def __deepcopy__(self, memo: dict[int, object]) -> "ByRows[T]":
        return self
