"""A tiny multilayer perceptron in numpy: what both heads of the controller are at decode time. Trains nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

ARRAY_NAMES = ("weight1", "bias1", "weight2", "bias2")
"""Names of the arrays of one perceptron."""


@dataclass(frozen=True, slots=True)
class Mlp:
    """`weight2 @ relu(weight1 @ x + bias1) + bias2`, all float32, on unscaled inputs."""

    # I inputs, H hidden units, O outputs
    weight1: np.ndarray
    """(H, I)"""
    bias1: np.ndarray
    """(H,)"""
    weight2: np.ndarray
    """(O, H)"""
    bias2: np.ndarray
    """(O,)"""

    def __post_init__(self) -> None:
        for name in ARRAY_NAMES:
            array = getattr(self, name)
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite and float32, got {array.dtype}")
        if self.weight1.ndim != 2 or self.weight2.ndim != 2:
            raise ValueError(f"weights must be matrices, got shapes {self.weight1.shape} and {self.weight2.shape}")
        hidden, outputs = self.weight1.shape[0], self.weight2.shape[0]
        wanted = {"bias1": (hidden,), "weight2": (outputs, hidden), "bias2": (outputs,)}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {getattr(self, name).shape}")

    @property
    def num_inputs(self) -> int:
        return int(self.weight1.shape[1])

    @property
    def num_outputs(self) -> int:
        return int(self.weight2.shape[0])

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Outputs, before any squashing. (..., I) -> (..., O) float32"""
        hidden: np.ndarray = inputs @ self.weight1.T
        hidden += self.bias1
        np.maximum(hidden, 0.0, out=hidden)
        outputs: np.ndarray = hidden @ self.weight2.T
        outputs += self.bias2
        return outputs

    def shifted(self, change: np.ndarray) -> "Mlp":
        """The same function of `inputs + change`, at no cost: the change goes into the first bias. change: (I,)"""
        bias1 = self.bias1 + self.weight1 @ change.astype(np.float32)
        return Mlp(self.weight1, bias1, self.weight2, self.bias2)

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays by name, for storing."""
        return {f"{prefix}.{name}": getattr(self, name) for name in ARRAY_NAMES}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray], prefix: str) -> "Mlp":
        """The inverse of `arrays`. Raises KeyError or ValueError where an array is missing or misshapen."""
        return Mlp(*(arrays[f"{prefix}.{name}"] for name in ARRAY_NAMES))


def standardised(
    mean: np.ndarray,
    scale: np.ndarray,
    weight1: np.ndarray,
    bias1: np.ndarray,
    weight2: np.ndarray,
    bias2: np.ndarray,
) -> Mlp:
    """The perceptron that was trained on `(inputs - mean) * scale`; the scaling goes into the first layer. (I,) each

    A scale of 0 (an input that never varied in training) takes the input's effect away.
    """
    folded = weight1.astype(np.float64) * scale
    shift = bias1.astype(np.float64) - folded @ mean
    arrays = (folded, shift, weight2, bias2)
    return Mlp(*(np.ascontiguousarray(array, dtype=np.float32) for array in arrays))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Logistic function, safe for large arguments. Any shape."""
    values: np.ndarray = 0.5 * (np.tanh(0.5 * logits) + 1.0)
    return values
