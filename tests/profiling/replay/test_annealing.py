"""Temperatures by likelihood: found again where the tokens were drawn at a known one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from specbound_profiling.log.trace import DEFAULT_TEMPERATURES, PromptTrace
from specbound_profiling.replay.annealing import fit_alpha, fit_temperatures, largest_alpha

TraceOf = Callable[..., PromptTrace]
EXITS, NUM_LAYERS = (2, 4, 6), 8


def drawn_at(
    temperatures: tuple[float, ...],
    trace_of: TraceOf,
    num_positions: int = 6000,
    grid: tuple[float, ...] = DEFAULT_TEMPERATURES,
) -> list[PromptTrace]:
    """Exits whose random logits have to be divided by one temperature each to foretell the tokens."""
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3.0, size=(num_positions, len(EXITS), 5))
    labels = np.zeros((num_positions, len(EXITS)), dtype=int)
    for e, temperature in enumerate(temperatures):
        noisy = logits[:, e] / temperature + rng.gumbel(size=(num_positions, 5))
        labels[:, e] = noisy.argmax(-1)
    nll = []
    for temperature in grid:
        scaled = logits / temperature
        label = np.take_along_axis(scaled, labels[..., None], -1)[..., 0]
        nll.append(np.log(np.exp(scaled).sum(-1)) - label)
    whole = np.stack(nll, axis=-1).astype(np.float32)
    halves = np.array_split(np.arange(num_positions), 2)
    return [
        replace(
            trace_of(np.ones((len(rows), len(EXITS))).tolist(), EXITS, prompt_id=f"p{i}"),
            temperatures=grid,
            confidence_at=np.zeros((len(rows), len(EXITS), len(grid)), dtype=np.float32),
            label_nll_at=whole[rows],
        )
        for i, rows in enumerate(halves)
    ]


def test_each_exit_gets_the_temperature_that_its_tokens_were_drawn_at(trace_of: TraceOf) -> None:
    assert fit_temperatures(drawn_at((1.3, 1.62, 1.0), trace_of)) == pytest.approx((1.3, 1.62, 1.0), abs=0.06)


def test_exits_that_are_less_sure_than_they_could_be_get_a_temperature_below_1(trace_of: TraceOf) -> None:
    grid = tuple(round(0.5 + 0.1 * k, 1) for k in range(16))
    traces = drawn_at((0.62, 1.4, 0.3), trace_of, grid=grid)
    assert fit_temperatures(traces) == pytest.approx((0.62, 1.4, 0.5), abs=0.06)
    assert fit_temperatures(traces)[2] == 0.5  # the edge, and the truth beyond it
    assert fit_alpha(drawn_at((0.7, 0.7, 0.7), trace_of, grid=grid), NUM_LAYERS) == 0.0


@pytest.mark.parametrize("alpha", [0.0, 0.35, 0.9])
def test_alpha_is_the_strength_that_the_tokens_were_drawn_at(alpha: float, trace_of: TraceOf) -> None:
    temperatures = tuple(1 + alpha * (1 - e / NUM_LAYERS) for e in EXITS)
    assert fit_alpha(drawn_at(temperatures, trace_of), NUM_LAYERS) == pytest.approx(alpha, abs=0.06)


def test_nothing_beyond_the_grid_is_found(trace_of: TraceOf) -> None:
    traces = drawn_at((3.0, 3.0, 3.0), trace_of, 1000)
    assert fit_temperatures(traces) == (2.0, 2.0, 2.0)
    assert fit_alpha(traces, NUM_LAYERS) == pytest.approx(largest_alpha(EXITS, DEFAULT_TEMPERATURES, NUM_LAYERS))
    assert largest_alpha(EXITS, DEFAULT_TEMPERATURES, NUM_LAYERS) == pytest.approx(4 / 3)


def test_a_grid_of_one_temperature_leaves_confidence_alone(trace_of: TraceOf) -> None:
    trace = trace_of([[1], [0]])
    bare = replace(
        trace, temperatures=(1.0,), confidence_at=trace.confidence_at[..., :1], label_nll_at=trace.label_nll_at[..., :1]
    )
    assert fit_alpha([bare], 4) == 0.0 and fit_temperatures([bare]) == (1.0,)
