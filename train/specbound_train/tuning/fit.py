"""What the learned baselines are fitted on: acceptance at one exit layer, read off a log. Knows no policy's costs."""

# N rows (positions of all traces), E exit layers, S signals, J longest draft, R rows of a fit, I inputs

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPRegressor

from specbound_controller.actions import WIDTHS
from specbound_controller.baselines.logistic import NUM_INPUTS
from specbound_controller.baselines.speckv import SIGNALS, SpecKVSettings, predictor_inputs
from specbound_controller.mlp import standardised
from specbound_profiling.replay.exit_signals import exit_signals
from specbound_profiling.replay.oracle import accepted_run
from specbound_profiling.replay.trace_batch import TraceBatch

MIN_ROWS = 50
"""Fewest tokens that a draft position has a regression of its own on; of the rarer outcome, a fifth of it."""
MAX_SPECKV_ROWS = 6000
"""Steps that its predictor is fitted on, about as many as the paper's 5,112; fewer on a small log."""
STEPS_PER_POSITION = 2
"""Random steps drawn for each position of a log, at most."""
HIDDEN_UNITS = 16


def logistic_weights(batch: TraceBatch, exit_layer: int, longest: int) -> tuple[tuple[float, ...], ...]:
    """For each draft position a regression of acceptance on the exit's signals, all drafts before it being accepted.

    Weights on the signals as they are, then the offset, (J, S + 1). A position that is seldom reached takes the weights
    of the one before it.
    """
    index = batch.exit_index(exit_layer)
    signals = exit_signals(batch.said.sources, batch.exit_layers)[:, index, :NUM_INPUTS].astype(np.float64)
    accepted = batch.said.is_accepted[:, index]
    runs, rows = accepted_run(batch, batch.num_rows)[:, index], np.arange(batch.num_rows)
    found: list[tuple[float, ...]] = []
    for place in range(longest):
        starts = rows - place
        is_reached = (batch.position > place) & (runs[np.maximum(starts, 0)] >= place)
        chosen = batch.said.rows(np.flatnonzero(is_reached), place)
        outcomes = accepted[chosen]
        rarer = min(int(outcomes.sum()), int((~outcomes).sum()))
        if len(chosen) >= MIN_ROWS and rarer >= MIN_ROWS // 5:
            found.append(_regression(signals[chosen], outcomes))
        elif found:
            found.append(found[-1])
        else:  # nothing to tell outcomes apart by: their share, with a prior of one of each
            odds = (outcomes.sum() + 1.0) / ((~outcomes).sum() + 1.0)
            found.append((*([0.0] * NUM_INPUTS), float(np.log(odds))))
    return tuple(found)


def _regression(signals: np.ndarray, outcomes: np.ndarray) -> tuple[float, ...]:
    mean, scale = _standard(signals)
    model = LogisticRegression(max_iter=300).fit((signals - mean) * scale, outcomes)
    weights = model.coef_[0] * scale
    return (*weights.tolist(), float(model.intercept_[0] - weights @ mean))


def _standard(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and one over the standard deviation, of each column; 0 for one that never varies. 2 x (columns,)"""
    spread = inputs.std(axis=0)
    return inputs.mean(axis=0), np.where(spread > 1e-9, 1.0 / np.maximum(spread, 1e-9), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Steps:
    """Steps to fit on: what a draft's signals were, and what became of a draft of some length."""

    inputs: np.ndarray
    """(R, I) float32"""
    acceptance: np.ndarray
    """Accepted over drafted. (R,)"""
    signals: np.ndarray
    """(R, S)"""


def speckv_settings(
    batches: Sequence[tuple[str, TraceBatch]], exit_layer: int, is_causal: bool, seed: int
) -> SpecKVSettings:
    """SpecKV's predictor of one exit layer, fitted on the steps of all compression levels together.

    batches: compression level and its traces. is_causal: whether it is fitted on signals of the step before.
    """
    num_rows = min(MAX_SPECKV_ROWS, STEPS_PER_POSITION * sum(batch.num_rows for _, batch in batches)) // len(batches)
    parts = [
        _speckv_steps(batch, batch.exit_index(exit_layer), compression, is_causal, num_rows, seed)
        for compression, batch in batches
    ]
    inputs = np.concatenate([part.inputs for part in parts]).astype(np.float64)
    acceptance = np.concatenate([part.acceptance for part in parts])
    mean, scale = _standard(inputs)
    model = MLPRegressor(hidden_layer_sizes=(HIDDEN_UNITS,), max_iter=500, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as far as it came is how far the paper's goes too
        model.fit((inputs - mean) * scale, acceptance)
    (first, second), (bias1, bias2) = model.coefs_, model.intercepts_
    mlp = standardised(mean, scale, first.T, bias1, second.T, bias2)
    start = () if is_causal else tuple(np.concatenate([part.signals for part in parts]).mean(axis=0).tolist())
    return SpecKVSettings(
        exit_layer=exit_layer,
        lengths=WIDTHS,
        weight1=tuple(map(tuple, mlp.weight1.tolist())),
        bias1=tuple(mlp.bias1.tolist()),
        weight2=tuple(map(tuple, mlp.weight2.tolist())),
        bias2=tuple(mlp.bias2.tolist()),
        start_signals=start,
    )


def _speckv_steps(
    batch: TraceBatch, exit_index: int, compression: str, is_causal: bool, num_rows: int, seed: int
) -> _Steps:
    """Random steps, each a draft of a random length after a draft of another random length."""
    rng = np.random.default_rng((seed, exit_index))
    lengths = np.array(WIDTHS)
    runs = accepted_run(batch, batch.num_rows)[:, exit_index]
    starts = np.flatnonzero(batch.position > 0)
    first = rng.choice(starts, num_rows)
    before, length = rng.choice(lengths, num_rows), rng.choice(lengths, num_rows)
    # a tenth of the steps are their prompt's first: nothing was drafted before
    has_signals = rng.random(num_rows) >= 0.1 if is_causal else np.ones(num_rows, dtype=bool)
    start = first + (np.minimum(runs[first], before) + 1) * (is_causal & has_signals)
    fits = start + length - 1 <= batch.last_row[first]  # a draft that was cut short says less than its length
    first, start, before, length, has_signals = (values[fits] for values in (first, start, before, length, has_signals))
    drafted = (first, before) if is_causal else (start, length)
    signals = _draft_signals(batch, exit_index, *drafted) * has_signals[:, None]
    inputs = predictor_inputs(signals, has_signals, compression, length)
    return _Steps(inputs, np.minimum(runs[start], length) / length, signals)


def _draft_signals(batch: TraceBatch, exit_index: int, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Signals of drafts in the order of `SIGNALS`, as if all their tokens were right. (R,), (R,) -> (R, S) float64"""
    columns = []
    count = np.minimum(length, batch.last_row[start] + 1 - start)
    draft = np.arange(max(WIDTHS))
    is_drafted = draft < count[:, None]
    place = batch.said.rows(np.minimum(start[:, None] + draft, batch.last_row[start][:, None]), draft)
    last = batch.said.rows(start + count - 1, count - 1)
    for name in ("confidence", "entropy_nats"):
        values = np.concatenate([getattr(source, name)[:, exit_index] for source in batch.said.sources])
        values = values.astype(np.float64)
        columns.append((values[last], (values[place] * is_drafted).sum(axis=1) / count))
    (last_confidence, mean_confidence), (last_entropy, mean_entropy) = columns
    signals = np.column_stack([last_confidence, last_entropy, mean_confidence, mean_entropy])
    assert signals.shape[1] == len(SIGNALS)
    return signals
