"""Which policies are measured at a compression level, and where the constants of each come from.

Nothing is chosen on the prompts that are measured: constants come from a file of tuned policies, from a log of training
prompts, or from what the controller's training has stored. Knows no model and no clock.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from specbound.evaluation.config import EVALUATED_POLICIES, EvaluateConfig
from specbound.policies import TunedPolicies, controller_policy, learned_action, static_policy
from specbound_controller.actions import Action, static_grid
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from specbound_controller.policy import AnnealedConfidence, DraftingFrom, Policy
from specbound_profiling.log.store import StepLog, open_log
from specbound_profiling.replay.best_static import static_seconds

NEEDS_CONTROLLER = ("best_static_learned", "controller")


@dataclass(frozen=True, slots=True)
class Sources:
    """What policies are made of, opened before anything is decoded."""

    asked: tuple[str, ...]
    """Policies that were named; empty where all are wanted that there are."""
    controller: Controller | None
    tuned: TunedPolicies | None
    log: StepLog | None
    sampling_temperature: float = 0.0
    """Of the evaluation; 0 for greedy decoding."""

    @staticmethod
    def open(config: EvaluateConfig, controller: Controller | None) -> "Sources":
        """Raises InputError where a file is none, or lacks a level or a policy that was asked for."""
        tuned = None if config.policies is None else TunedPolicies.load(Path(config.policies).expanduser())
        log = None if config.log is None else open_log(config.log)
        temperature = config.temperature if config.sample else 0.0
        sources = Sources(config.asked, controller, tuned, log, temperature)
        for compression in config.compression:
            if tuned is not None:
                tuned.level(compression)
            missing = [name for name in config.asked if name not in sources.available(compression)]
            if missing:
                raise InputError(
                    f"policy {missing[0]} needs --policies with its constants, or --log for a fixed setting, "
                    f"or --controller (compression {compression})"
                )
        return sources

    def check_model(self, fingerprint: str, num_layers: int) -> None:
        """Raises InputError where controller, policies or log belong to another model."""
        for source in (self.controller, self.tuned):
            if source is not None:
                source.check_model(fingerprint, num_layers)
        if self.log is not None and not same_model(self.log.manifest.model_fingerprint, fingerprint):
            raise InputError(
                f"log must be of the model that is measured, with fingerprint {fingerprint[:16]}, "
                f"got {self.log.manifest.model_fingerprint[:16]} ({self.log.root})"
            )

    def prompt_hashes(self) -> dict[str, str]:
        """Source -> hash of the prompts that it was made from."""
        hashes = {} if self.controller is None else {"controller": self.controller.config.prompts_hash}
        hashes |= {} if self.tuned is None else {"policies": self.tuned.file.prompts_hash}
        return hashes if self.log is None else {**hashes, "log": self.log.manifest.prompts_hash}

    def available(self, compression: str) -> list[str]:
        """Policies that can be made at a level, in the order of the table."""
        names = set() if self.controller is None else set(NEEDS_CONTROLLER)
        if self.tuned is not None:
            names |= set(self.tuned.names)
        if self.log is not None:
            names |= {"best_static", "best_static_annealed"}
        elif self.controller is not None and self._stored_static(compression) is not None:
            names.add("best_static")
        return [name for name in EVALUATED_POLICIES if name in names]

    def choose(self, compression: str, costs: CostTable) -> "Choice":
        """The policies of a level, each with one line that says what it is."""
        choice = Choice()
        for name in self.asked or self.available(compression):
            if name in NEEDS_CONTROLLER:
                self._add_controllers(choice, name, compression, costs)
            elif self.tuned is not None and name in self.tuned.names:
                policy = self.tuned.policy(name, compression, costs, self.controller)
                choice.add(name, policy, self.tuned.describe(name, compression))
            else:
                self._add_static(choice, name, compression, costs)
        return choice

    def _add_controllers(self, choice: "Choice", name: str, compression: str, costs: CostTable) -> None:
        assert self.controller is not None  # the config and `available` see to it
        controller = self.controller
        policy = controller_policy(name, compression, costs, controller)
        if name == "best_static_learned":
            action = learned_action(controller, compression, costs)
            choice.add(name, policy, f"{action.name}, chosen on the steps that the controller carries")
            return
        choice.add(name, policy, "")
        level = trained_level(controller, compression)
        played = controller.config.static_actions.get(level)
        if compression != level:
            levels = ", ".join(controller.config.compressions)
            choice.notes.append(f"controller: trained on {levels}, decides as for {level}")
        if played is not None:
            choice.notes.append(f"controller: found nothing faster in training than {played.name} at every step")

    def _stored_static(self, compression: str) -> Action | None:
        assert self.controller is not None
        return stored_static(self.controller, compression, self.sampling_temperature)

    def _add_static(self, choice: "Choice", name: str, compression: str, costs: CostTable) -> None:
        """A fixed setting without a file: searched on a log at this level's costs, or the one of training."""
        alpha = 0.0 if self.controller is None else self.controller.config.alpha
        if self.log is None:
            assert self.controller is not None
            stored = self._stored_static(compression)
            assert stored is not None  # `available` sees to it
            level = trained_level(self.controller, compression)
            vocabulary = self.controller.draft_vocabulary
            action, origin = stored, f"chosen in the controller's training at compression {level}"
        else:
            levels = self.log.manifest.compressions
            level = compression if compression in levels else levels[0]
            vocabulary = self.log.manifest.drafted_tokens()
            action = fastest_static(self.log, level, costs, alpha, name == "best_static_annealed")
            origin = f"chosen on {self.log.manifest.num_prompts} prompts of a log at compression {level}"
        policy = static_policy(action, alpha)
        choice.add(name, policy if vocabulary is None else DraftingFrom(vocabulary, policy), f"{action.name}, {origin}")


@dataclass(slots=True)
class Choice:
    """The policies of one level."""

    policies: dict[str, Policy] = field(default_factory=dict)
    """Name -> policy, in the order of the table."""
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, policy: Policy, description: str) -> None:
        self.policies[name] = policy
        if description:
            self.notes.append(f"{name}: {description}")


def trained_level(controller: Controller, compression: str) -> str:
    """The level that stands in for the given one in the controller; itself where it was trained on."""
    levels = controller.config.compressions
    return compression if compression in levels else levels[0]


def stored_static(controller: Controller, compression: str, sampling_temperature: float = 0.0) -> Action | None:
    """The best static setting that the controller's training has stored by name, for the temperature that is nearest
    among those trained on; None where there is none."""
    config, level = controller.config, trained_level(controller, compression)
    levels = [each for each in config.summary.get("levels", []) if each.get("compression") == level]
    levels.sort(key=lambda each: abs(each.get("sampling_temperature", 0.0) - sampling_temperature))
    names = [each.get("best_static") for each in levels]
    drafting = [action for action in config.actions if action.width > 0]
    widths, thresholds = {action.width for action in drafting}, {action.threshold for action in drafting} - {0.0}
    grid = static_grid(config.exit_layers, sorted(widths), sorted(thresholds))
    known = {action.name: action for action in (*config.actions, *grid)}
    return known.get(names[0]) if names else None


def fastest_static(log: StepLog, level: str, costs: CostTable, alpha: float, is_annealed: bool) -> Action:
    """The fastest action of the static grid over a log's prompts; is_annealed: of those that test a confidence."""
    manifest = log.manifest
    grid = [a for a in static_grid(manifest.exit_layers) if not is_annealed or a.score == "annealed"]
    scores = {"annealed": AnnealedConfidence(alpha)}
    decisions = [action.decision(scores) for action in grid]
    seconds = sum(static_seconds(shard, costs, decisions, manifest.num_layers) for shard in log.iter_shards(level))
    return grid[int(np.argmin(seconds))]
