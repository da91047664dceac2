"""The one place where a name becomes a policy: plain decoding, static actions, the controller, the baselines.

Knows no model. Settings are read from a file that `specbound tune` wrote.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from specbound_controller.actions import Action
from specbound_controller.baselines import BASELINES
from specbound_controller.baselines.situation import Situation
from specbound_controller.baselines.tuned import Tuned, TunedFile, TunedLevel, TunedTree
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.features import FEATURE_NAMES
from specbound_controller.fingerprint import same_model
from specbound_controller.guarded import GuardedPolicy
from specbound_controller.policy import AnnealedConfidence, FixedPolicy, Policy, StaticPolicy
from specbound_controller.trees.names import LEARNED_TREE, TUNED_TREES
from specbound_controller.trees.settings import TreeSources

STATIC_NAMES = ("best_static", "best_static_annealed")
CONTROLLER_NAMES = ("best_static_learned", "controller")
"""Policies that need a controller, and no tuned settings."""
POLICY_NAMES = ("plain", *STATIC_NAMES, *CONTROLLER_NAMES, *BASELINES)
"""Every policy that can decode."""


@dataclass(frozen=True, slots=True)
class TunedPolicies:
    """Policies by name, with the settings of one file."""

    file: TunedFile
    source: str
    """Where the settings were read."""

    @staticmethod
    def load(source: str | Path) -> "TunedPolicies":
        """Reads a file that `specbound tune` wrote. Raises InputError, one line, where it is none."""
        return TunedPolicies(TunedFile.load(Path(source).expanduser()), str(source))

    def check_model(self, fingerprint: str, num_layers: int) -> None:
        """Raises InputError, naming both values, where the settings are another model's."""
        if num_layers != self.file.num_layers:
            raise InputError(
                f"policies were tuned for a model of {self.file.num_layers} layers, got one of {num_layers} "
                f"({self.source}); profile this model and tune for it"
            )
        if not same_model(fingerprint, self.file.model_fingerprint):
            raise InputError(
                f"policies were tuned for the model with fingerprint {self.file.model_fingerprint[:16]}, "
                f"got {fingerprint[:16]} ({self.source}); profile this model and tune for it"
            )

    def check_exits(self, exits: str) -> None:
        """Raises InputError where the settings were tuned for other exits. exits: name of trained ones, or empty"""
        if exits != self.file.exits:
            wanted, got = (
                f"the trained exits {name}" if name else "the model's own" for name in (self.file.exits, exits)
            )
            raise InputError(f"policies were tuned for {wanted}, got {got} ({self.source}); tune on a log with these")

    @property
    def compressions(self) -> tuple[str, ...]:
        """Levels that were tuned for."""
        return tuple(self.file.levels)

    @property
    def names(self) -> tuple[str, ...]:
        """Policies that this file makes at every level, plain decoding included; without those of a controller."""
        levels = self.file.levels.values()
        return tuple(name for name in POLICY_NAMES if name == "plain" or all(name in lv.policies for lv in levels))

    @property
    def tree_names(self) -> tuple[str, ...]:
        """Draft trees that this file makes at every level."""
        return tuple(name for name in TUNED_TREES if all(name in level.trees for level in self.file.levels.values()))

    def tree(self, name: str, compression: str, costs: CostTable, sources: TreeSources) -> Policy:
        """A draft tree of a name at today's prices. Raises InputError where it was not tuned at this level."""
        return self._tree(name, compression).settings.policy(sources, costs, self.file.num_layers)

    def _tree(self, name: str, compression: str) -> TunedTree:
        trees = self.level(compression).trees
        if name not in trees:
            raise InputError(
                f"policy {name!r} was not tuned for {compression} ({self.source}); run specbound tune on a newer log"
            )
        return trees[name]

    def level(self, compression: str) -> TunedLevel:
        """What was tuned at a level. Raises InputError where nothing was."""
        if compression not in self.file.levels:
            known = ", ".join(self.compressions)
            raise InputError(f"policies were tuned for {known}, got compression {compression!r} ({self.source})")
        return self.file.levels[compression]

    def tuned(self, name: str, compression: str) -> Tuned:
        """The settings of one policy. Raises InputError where there are none."""
        policies = self.level(compression).policies
        if name not in policies:
            raise InputError(f"policy {name!r} was not tuned for {compression} ({self.source}); run specbound tune")
        return policies[name]

    def policy(
        self,
        name: str,
        compression: str,
        costs: CostTable,
        controller: Controller | None = None,
        alpha: float | None = None,
    ) -> Policy:
        """A fresh policy of a name.

        Args:
            compression: Level that it will decode at.
            costs: What work costs there; read by the policies that price their choices.
            controller: For `controller` and `best_static_learned`.
            alpha: Strength of annealing of the static actions; by default the one they were tuned at.

        Raises:
            InputError: the name is unknown, was not tuned at this level, or needs a controller.
        """
        if name == "plain":
            return StaticPolicy(())
        if name in CONTROLLER_NAMES:
            return controller_policy(name, compression, costs, controller)
        if name not in POLICY_NAMES:
            raise InputError(f"policy must be one of {', '.join(POLICY_NAMES)}, got {name!r}")
        settings = self.tuned(name, compression).settings
        if name in STATIC_NAMES and alpha is not None:
            settings = replace(settings, alpha=alpha)  # type: ignore[type-var]
        return settings.policy(Situation(self.file.num_layers, compression, costs))

    def describe(self, name: str, compression: str) -> str:
        """The constants of a policy in one line; weights are only counted."""
        tuned: Any = self._tree(name, compression) if name in TUNED_TREES else self.tuned(name, compression)
        parts = [_constant(key, value) for key, value in asdict(tuned.settings).items()]
        constants = ", ".join(filter(None, parts))
        return f"{constants}; the best of {tuned.num_candidates} settings on {self.file.num_prompts} prompts"


def static_policy(action: Action, alpha: float) -> FixedPolicy:
    """The policy that plays one action of the static grid at every step, the lookup before its exit included."""
    return FixedPolicy(action.decision({"annealed": AnnealedConfidence(alpha)}))


def controller_policy(
    name: str,
    compression: str,
    costs: CostTable,
    controller: Controller | None,
    sources: Callable[[], TreeSources] | None = None,
) -> Policy:
    """`controller`, `learned_tree`, or `best_static_learned`: one action of its grid at every step, behind the same
    guard.

    sources: makes what draft trees draw from; None where there is no such thing, and the controller plays chains.

    Raises InputError where there is no controller, or it has no trees and they were asked for.
    """
    if controller is None:
        raise InputError(f"policy {name} needs --controller, a folder that train-controller wrote")
    if name == LEARNED_TREE:
        return learned_tree(compression, costs, controller, sources)
    if name == "controller":
        if sources is None or not controller.plays_trees(compression):
            return controller.policy(costs, compression)
        trees = learned_tree(compression, costs, controller, sources)
        return GuardedPolicy(trees, costs, controller.config.num_layers)
    action = learned_action(controller, compression, costs)
    level = controller.level_used(compression)
    fixed = replace(controller, config=replace(controller.config, static_actions={level: action}))
    return fixed.policy(costs, compression)


def learned_tree(
    compression: str, costs: CostTable, controller: Controller, sources: Callable[[], TreeSources] | None
) -> Policy:
    """Draft trees by the controller's score of nodes, at today's prices. sources: as `controller_policy` takes them.

    Raises InputError where the controller has no trees.
    """
    trees, score = controller.config.trees, controller.node_score
    if trees is None or score is None or sources is None:
        raise InputError(
            f"policy {LEARNED_TREE} needs a controller that was trained on a log of schema 3; profile again, and train"
        )
    settings = trees.growth[controller.level_used(compression)]
    return settings.policy(replace(sources(), score=score), costs, controller.config.num_layers)


def learned_action(controller: Controller, compression: str, costs: CostTable) -> Action:
    """The action with the learned score that is expected to be fastest at every step of the controller's sample.

    Raises InputError where the controller's grid has none.
    """
    sample = controller.sample
    of_level = FEATURE_NAMES.index(f"compression_{controller.level_used(compression)}")
    is_level = sample.features[:, of_level] > 0.5
    weights = sample.weights * is_level if is_level.any() else sample.weights
    emitted, seconds = controller.step_policy.table(
        sample.features, sample.context_lengths, costs, controller.config.num_layers
    )
    speeds = (weights @ emitted) / (weights @ seconds)
    actions = controller.config.actions
    learned = [index for index, action in enumerate(actions) if action.score == "learned"]
    if not learned:
        raise InputError("policy best_static_learned needs a controller whose grid has actions with a threshold")
    return actions[max(learned, key=lambda index: float(speeds[index]))]


def _constant(name: str, value: object) -> str:
    """A constant in words; empty where there is nothing to say."""
    if isinstance(value, dict):
        return Action(**value).name
    if not isinstance(value, list | tuple):
        return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
    if not value or name.startswith("bias"):
        return ""
    if isinstance(value[0], list | tuple):
        return f"{len(value)} x {len(value[0])} {name}"
    return f"{name} {' '.join(_constant('', each).strip() for each in value)}"
