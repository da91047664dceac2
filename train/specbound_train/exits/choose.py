"""Which exit layer pays: what a chain of its drafts would emit against what it costs, in weights that are read."""

from collections.abc import Sequence

from specbound_train.exits.measure import Agreement

CANDIDATES = (1, 2, 4, 8)
"""Layers that are tried."""
MOST_DRAFTS = 8


def candidates(num_layers: int) -> tuple[int, ...]:
    """Those within the shallower half of an L-layer model; at least layer 1."""
    return tuple(layer for layer in CANDIDATES if layer <= max(1, num_layers // 2))


def chain_speedup(agreements: Sequence[float], draft_cost: float) -> float:
    """Tokens over cost of the best fixed draft length, plain decoding 1.

    agreements: of the first, second, ... draft of a step, the last for all beyond. draft_cost: of one draft, in steps
    of plain decoding; the rows of a longer verification count as free.
    """
    best, emitted, survival = 1.0, 1.0, 1.0
    for draft in range(1, MOST_DRAFTS + 1):
        survival *= agreements[min(draft, len(agreements)) - 1]
        emitted += survival
        best = max(best, emitted / (1.0 + draft * draft_cost))
    return best


def best_exit(found: Sequence[Agreement], variant: str, costs: dict[int, float]) -> int:
    """The exit layer with the fastest chain, the shallowest of equals. costs: exit layer -> `draft_cost`"""

    def speed(layer: int) -> float:
        own = sorted((each for each in found if each.variant == variant and each.exit_layer == layer), key=_distance)
        return chain_speedup([each.top1 for each in own], costs[layer])

    return max(sorted(costs), key=speed)


def draft_cost(exit_layer: int, num_layers: int, layer_weights: int, module_weights: int, head_weights: int) -> float:
    """Weights that one draft reads, as a share of those of a plain step. head_weights: of the whole head"""
    step = num_layers * layer_weights + head_weights
    return (exit_layer * layer_weights + module_weights) / step


def _distance(agreement: Agreement) -> int:
    return agreement.distance
