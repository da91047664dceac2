"""Traces: shapes, limits, annealed confidence from the grid of temperatures."""

from collections.abc import Callable

import numpy as np
import pytest

from specbound_controller.errors import InputError
from specbound_profiling.log.trace import PromptTrace, interpolate_confidence

TraceOf = Callable[..., PromptTrace]


def test_interpolation_is_exact_at_grid_points_and_geometric_between() -> None:
    values, grid = np.array([0.9, 0.4, 0.1]), (1.0, 1.5, 2.0)
    assert interpolate_confidence(values, grid, 1.5) == pytest.approx(0.4)
    assert interpolate_confidence(values, grid, 2.0) == pytest.approx(0.1)
    assert interpolate_confidence(values, grid, 1.25) == pytest.approx((0.9 * 0.4) ** 0.5)


@pytest.mark.parametrize(("first", "bound"), [(1.0, 0.002), (0.5, 0.01)])
def test_interpolated_softmax_confidence_is_within_the_stated_error(first: float, bound: float) -> None:
    logits = np.random.default_rng(0).normal(size=(200, 1, 50)) * 4
    grid = tuple(first + 0.1 * k for k in range(11))

    def confidence(t: float) -> np.ndarray:
        z = logits / t
        return np.exp(z.max(-1)) / np.exp(z).sum(-1)

    recorded = np.stack([confidence(t) for t in grid], axis=-1)
    tried = np.linspace(first, first + 1, 37)
    error = max(np.abs(interpolate_confidence(recorded, grid, t) - confidence(t)).max() for t in tried)
    assert error < bound


def test_temperature_outside_the_grid_is_refused_with_the_range() -> None:
    with pytest.raises(InputError, match=r"must be in \[1.0, 2.0\], the log's grid, got 2.4"):
        interpolate_confidence(np.array([0.5, 0.4]), (1.0, 2.0), 2.4)


def test_arrays_of_the_wrong_shape_are_refused_by_name(trace_of: TraceOf) -> None:
    with pytest.raises(ValueError, match=r"margin of p must be \(3, 1\)"):
        trace_of([[1]] * 3, margin=np.zeros((2, 1), dtype=np.float32))


def test_length_limit_is_the_runs_own_but_for_cut_loops(trace_of: TraceOf) -> None:
    assert trace_of([[1]] * 3).length_limit == 3
    assert trace_of([[1]] * 3, token_limit=9, is_final_eos=True).length_limit == 9
    assert trace_of([[1]] * 3, token_limit=9, is_loop_cut=True).length_limit == 3


def test_signals_are_the_recorded_values(trace_of: TraceOf) -> None:
    trace = trace_of([[1], [0]], confidence=[[0.25], [0.75]])
    signals = trace.signals(1, 0, 4, 1.0)
    assert (signals.exit_layer, signals.draft_index, signals.draft_token) == (2, 4, 9)
    assert signals.confidence == signals.annealed_confidence == 0.75
