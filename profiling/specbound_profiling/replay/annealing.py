"""Layer temperatures by likelihood: how far an exit has to be flattened to foretell the full model's token.

SpecBound ties all exits to one number, `T_e = 1 + alpha * (1 - e / L)`; the alternative is one temperature for each.
Both are read off the log's `label_nll_at`, so nothing outside its grid of temperatures can be found. Knows no policy.
"""

# N positions, E exit layers, K temperatures, S values tried

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import CubicSpline

from specbound_controller.lookup import LOOKUP_EXIT
from specbound_controller.policy import AnnealedConfidence
from specbound_profiling.log.trace import PromptTrace

_NUM_TRIED = 401


def label_nll_sums(traces: Sequence[PromptTrace]) -> np.ndarray:
    """-log probability of the full model's token summed over all positions, nats. (E, K) float64

    Tokens outside a draft vocabulary are left out: no temperature gives them a probability.
    """
    sums = [np.nansum(trace.label_nll_at, axis=0, dtype=np.float64) for trace in traces]
    return np.asarray(np.sum(sums, axis=0))


def annealed_temperature(alpha: float, exit_layer: int, num_layers: int) -> float:
    """`T_e` of annealing; 1 for a lookup, which has no logits to divide."""
    return 1.0 if exit_layer == LOOKUP_EXIT else AnnealedConfidence(alpha).temperature(exit_layer, num_layers)


def largest_alpha(exit_layers: Sequence[int], temperatures: Sequence[float], num_layers: int) -> float:
    """The largest strength of annealing whose every layer temperature lies within a grid."""
    return (temperatures[-1] - 1.0) / (1.0 - min(e for e in exit_layers if e != LOOKUP_EXIT) / num_layers)


def fit_alpha(traces: Sequence[PromptTrace], num_layers: int) -> float:
    """Strength of annealing by likelihood of the full model's tokens, over all exits that have logits together.

    Only values whose temperatures the log's grid covers are tried; 0 is plain confidence.
    """
    exit_layers, temperatures = traces[0].exit_layers, traces[0].temperatures
    if len(temperatures) < 2:
        return 0.0
    sums = label_nll_sums(traces)
    alphas = np.linspace(0.0, largest_alpha(exit_layers, temperatures, num_layers), _NUM_TRIED)
    loss = np.zeros(_NUM_TRIED)
    for exit_layer, of_exit in zip(exit_layers, sums, strict=True):
        if exit_layer == LOOKUP_EXIT:
            continue
        wanted = [AnnealedConfidence(float(alpha)).temperature(exit_layer, num_layers) for alpha in alphas]
        loss += CubicSpline(temperatures, of_exit)(wanted)
    return float(alphas[loss.argmin()])


def fit_temperatures(traces: Sequence[PromptTrace]) -> tuple[float, ...]:
    """Each exit's own temperature by the same likelihood, within the log's grid; at its edge it may lie beyond. (E,)

    A lookup has no logits and keeps 1.
    """
    temperatures = traces[0].temperatures
    if len(temperatures) < 2:
        return temperatures * len(traces[0].exit_layers)
    tried = np.linspace(temperatures[0], temperatures[-1], _NUM_TRIED)
    fitted = []
    for exit_layer, row in zip(traces[0].exit_layers, label_nll_sums(traces), strict=True):
        has_logits = exit_layer != LOOKUP_EXIT
        fitted.append(float(tried[CubicSpline(temperatures, row)(tried).argmin()]) if has_logits else 1.0)
    return tuple(fitted)
