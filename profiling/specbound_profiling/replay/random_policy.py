"""A policy that takes another decision of a grid at every step: what a policy without any knowledge does."""

from collections.abc import Sequence

import numpy as np

from specbound_controller.policy import StaticPolicy
from specbound_controller.records import Decision


class RandomChoice(StaticPolicy):
    """Draws from a grid, each prompt from a stream of its own: the k-th prompt always sees the same draws."""

    def __init__(self, grid: Sequence[Decision], seed: int) -> None:
        super().__init__((), w_max=0)
        self._grid, self._seed, self._num_prompts = tuple(grid), seed, 0
        self.reset()

    def reset(self) -> None:
        """The next prompt's stream."""
        self._random = np.random.default_rng((self._seed, self._num_prompts))
        self._num_prompts += 1

    def decide(self, features: np.ndarray | None) -> Decision:
        """Any decision of the grid."""
        return self._grid[int(self._random.integers(len(self._grid)))]
