"""Calibration of a log: how far each exit's confidence foretells acceptance, as it is and after four corrections.

Everything is fitted on some prompts and judged on others. Draws nothing and writes nothing.
"""

# N positions of all traces, E exit layers

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.errors import InputError
from specbound_controller.mlp import sigmoid
from specbound_profiling.log.trace import PromptTrace, interpolate_confidence
from specbound_profiling.replay.annealing import annealed_temperature, fit_alpha, fit_temperatures, largest_alpha
from specbound_profiling.report.records import SCORE_NAMES, ExitCalibration, LevelCalibration
from specbound_train.calibration.measures import equal_bins, fit_isotonic, measures, platt
from specbound_train.data import split_prompts

MIN_PROMPTS = 4
"""Fewest prompts with more than one token: two to fit on, two to judge."""
_TINY = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """All positions that a step may draft: those but the first of each prompt."""

    task: np.ndarray
    """(N,) str"""
    outcomes: np.ndarray
    """(N, E) bool"""
    confidence: np.ndarray
    """(N, E)"""
    confidence_at: np.ndarray
    """(N, E, K)"""
    entropy_nats: np.ndarray
    """(N, E)"""

    @classmethod
    def of(cls, traces: Sequence[PromptTrace]) -> "_Rows":
        return cls(
            task=np.repeat([t.task for t in traces], [t.num_positions - 1 for t in traces]),
            outcomes=np.concatenate([t.is_accepted[1:] for t in traces]),
            confidence=np.concatenate([t.confidence[1:] for t in traces]),
            confidence_at=np.concatenate([t.confidence_at[1:] for t in traces]),
            entropy_nats=np.concatenate([t.entropy_nats[1:] for t in traces]),
        )


def judged_prompts(traces: Sequence[PromptTrace], judged_share: float, seed: int) -> frozenset[str]:
    """Ids of the prompts that judge; the others are fitted on. Raises InputError where there are too few prompts."""
    usable = {trace.prompt_id: trace.task for trace in traces if trace.num_positions > 1}
    if len(usable) < MIN_PROMPTS:
        raise InputError(
            f"a report needs at least {MIN_PROMPTS} prompts with more than one token, got {len(usable)}; "
            "profile more prompts"
        )
    return frozenset(split_prompts(usable, judged_share, seed)[1])


def calibrate(
    fitted: Sequence[PromptTrace], judged: Sequence[PromptTrace], num_layers: int, alpha: float | None = None
) -> LevelCalibration:
    """One compression level, fitted on some prompts and judged on others; each of them holds more than one token.

    Args:
        alpha: strength of annealing to judge; None takes the most likely one.

    Raises:
        InputError: an alpha whose temperatures the log's grid does not hold.
    """
    exit_layers, temperatures = fitted[0].exit_layers, fitted[0].temperatures
    likely, own = fit_alpha(fitted, num_layers), fit_temperatures(fitted)
    alpha = likely if alpha is None else alpha
    annealed = [annealed_temperature(alpha, exit_layer, num_layers) for exit_layer in exit_layers]
    fit_rows, rows = _Rows.of(fitted), _Rows.of(judged)
    scores = [_scores(fit_rows, rows, e, annealed[e], own[e], temperatures) for e in range(len(exit_layers))]
    tasks = ("all", *dict.fromkeys(trace.task for trace in judged if trace.task != "all"))
    return LevelCalibration(
        compression=fitted[0].compression,
        num_layers=num_layers,
        num_fitted=len(fitted),
        num_judged=len(judged),
        alpha=alpha,
        likely_alpha=likely,
        largest_alpha=largest_alpha(exit_layers, temperatures, num_layers),
        annealed_temperatures=dict(zip(exit_layers, annealed, strict=True)),
        own_temperatures=dict(zip(exit_layers, own, strict=True)),
        temperature_range=(temperatures[0], temperatures[-1]),
        exits=tuple(_exit(rows, scores[e], e, layer, task) for task in tasks for e, layer in enumerate(exit_layers)),
    )


def _scores(
    fitted: _Rows, judged: _Rows, exit_index: int, annealed: float, own: float, temperatures: tuple[float, ...]
) -> dict[str, np.ndarray]:
    """The judged rows' probabilities of acceptance at one exit by each score of `SCORE_NAMES`. (N,) each"""
    plain, outcomes = fitted.confidence[:, exit_index].astype(np.float64), fitted.outcomes[:, exit_index]
    slope, offset = platt(_log_odds(plain), outcomes)
    seen = judged.confidence[:, exit_index].astype(np.float64)
    scores = {
        "plain": seen,
        "annealed": interpolate_confidence(judged.confidence_at[:, exit_index], temperatures, annealed),
        "temperature": interpolate_confidence(judged.confidence_at[:, exit_index], temperatures, own),
        "logistic": sigmoid(slope * _log_odds(seen) + offset),
        "isotonic": fit_isotonic(plain, outcomes)(seen),
    }
    assert tuple(scores) == SCORE_NAMES
    return {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}


def _log_odds(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability, _TINY, 1.0 - _TINY)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _exit(rows: _Rows, scores: dict[str, np.ndarray], exit_index: int, exit_layer: int, task: str) -> ExitCalibration:
    is_total = task == "all"
    chosen = np.ones(len(rows.task), dtype=bool) if is_total else rows.task == task
    outcomes, confidence = rows.outcomes[chosen, exit_index], rows.confidence[chosen, exit_index]
    entropy = rows.entropy_nats[chosen, exit_index]
    return ExitCalibration(
        task=task,
        exit_layer=exit_layer,
        num_rows=int(chosen.sum()),
        acceptance=float(outcomes.mean()),
        confidence=float(confidence.mean()),
        entropy_nats=float(entropy.mean()),
        measures={name: measures(values[chosen], outcomes) for name, values in scores.items()},
        reliability={name: equal_bins(values, outcomes) for name, values in scores.items()} if is_total else {},
        by_confidence=equal_bins(confidence, outcomes) if is_total else (),
        by_entropy=equal_bins(entropy, outcomes) if is_total else (),
    )
