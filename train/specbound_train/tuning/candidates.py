"""The settings that each policy is allowed to try: what its paper leaves open, around what it recommends."""

from collections.abc import Iterator, Sequence
from itertools import product

from specbound_controller.actions import WIDTHS, Action
from specbound_controller.baselines.draft_verify import DraftVerifySettings
from specbound_controller.baselines.lengths import GammaTuneSettings, HeuristicSettings
from specbound_controller.baselines.svip import SvipSettings
from specbound_controller.baselines.ucb import UcbSettings

SVIP_ROOTS = (0.3, 0.6, 1.0, 1.4, 1.8, 2.3)
"""Entropies of 0.1 to 5.3 nats."""
DRAFT_LENGTHS = ((1, 2), (1, 2, 3, 4), (2, 4, 6, 8))
"""Lengths that SpecKV may choose from; the last ones are the paper's."""
LOGISTIC_WIDTHS = (2, 4, 8)
NUM_ARMS = (3, 6)


def svip_candidates(exit_layers: Sequence[int]) -> list[SvipSettings]:
    return [SvipSettings(*values) for values in product(exit_layers, WIDTHS, SVIP_ROOTS)]


def draft_verify_candidates(exit_layers: Sequence[int]) -> list[DraftVerifySettings]:
    """Targets and steps around the paper's 0.9 and 0.01, which was made for outputs ten times as long."""
    values = product(exit_layers, (2, 4, 8), (0.1, 0.3, 0.6), (0.6, 0.9), (0.01, 0.1))
    return [DraftVerifySettings(*each) for each in values]


def gammatune_candidates(exit_layers: Sequence[int]) -> list[GammaTuneSettings]:
    values = product(exit_layers, (1, 3), (4, 8), (0.2, 0.5), (1.0, 2.0))
    return [GammaTuneSettings(*each) for each in values]


def heuristic_candidates(exit_layers: Sequence[int]) -> list[HeuristicSettings]:
    """transformers begins with 20; shorter beginnings are kinder to prompts of a few dozen tokens."""
    return [HeuristicSettings(*each) for each in product(exit_layers, (1, 2, 4, 8), (8, 20))]


def ucb_candidates(actions: Sequence[Action], speeds: Sequence[float], alpha: float) -> Iterator[UcbSettings]:
    """Bandits over the fastest action of each width, or of each exit layer.

    actions, speeds: the static grid, with each action's speed over plain decoding.
    """
    ranked = sorted(zip(actions, speeds, strict=True), key=lambda pair: -pair[1])
    for attribute, num_arms in product(("width", "exit_layer"), NUM_ARMS):
        fastest: dict[int, tuple[Action, float]] = {}
        for action, speed in ranked:
            fastest.setdefault(getattr(action, attribute), (action, speed))
        arms = list(fastest.values())[:num_arms]
        chosen, known = tuple(action for action, _ in arms), tuple(speed for _, speed in arms)
        for prior_steps, exploration in product((1.0, 10.0), (0.02, 0.1, 0.3)):
            yield UcbSettings(chosen, known, prior_steps, exploration, alpha)
