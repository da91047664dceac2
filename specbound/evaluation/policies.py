"""Which policies are measured at a compression level, and where the constants of each come from.

Nothing is chosen on the prompts that are measured: constants come from a file of tuned policies, from the controller,
or from a race on tuning prompts. Knows no model and no clock.
"""

from dataclasses import dataclass, field
from pathlib import Path

from specbound.evaluation.best_static import StaticChoice
from specbound.evaluation.best_tree import TreeChoice
from specbound.evaluation.config import EVALUATED_POLICIES, RACED_POLICIES, EvaluateConfig
from specbound.policies import TunedPolicies, controller_policy, learned_action
from specbound.stores.trees import TreeSituation, tree_policy
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.guarded import GuardedPolicy
from specbound_controller.policy import Policy
from specbound_controller.policy_names import is_written_out, written_out
from specbound_controller.settings import both, in_words, is_setting
from specbound_controller.trees.names import BEST_TREE, TUNED_TREES, drafts_trees
from specbound_controller.trees.settings import TreeSources

NEEDS_CONTROLLER = ("best_static_learned", "controller")


@dataclass(frozen=True, slots=True)
class Sources:
    """What policies are made of, opened before anything is decoded."""

    asked: tuple[str, ...]
    """Policies that were named; empty where all are wanted that there are."""
    controller: Controller | None
    tuned: TunedPolicies | None
    num_layers: int = 1
    """Of the model."""

    @staticmethod
    def open(config: EvaluateConfig, controller: Controller | None) -> "Sources":
        """Raises InputError where a file is none, or lacks a level or a policy that was asked for."""
        tuned = None if config.policies is None else TunedPolicies.load(Path(config.policies).expanduser())
        sources = Sources(config.asked, controller, tuned)
        for compression in config.compression:
            if tuned is not None:
                tuned.level(compression)
            known = (*sources.available, *(() if tuned is None else tuned.tree_names))
            missing = [
                name
                for name in config.asked
                if name not in known and (name in TUNED_TREES or not (drafts_trees(name) or is_written_out(name)))
            ]
            if missing:
                raise InputError(f"policy {missing[0]} needs --policies with its constants, or --controller")
        return sources

    def check_model(self, fingerprint: str, num_layers: int) -> None:
        """Raises InputError where controller or policies belong to another model."""
        for source in (self.controller, self.tuned):
            if source is not None:
                source.check_model(fingerprint, num_layers)

    def prompt_hashes(self) -> dict[str, str]:
        """Source -> hash of the prompts that it was made from."""
        hashes = {} if self.controller is None else {"controller": self.controller.config.prompts_hash}
        return hashes if self.tuned is None else {**hashes, "policies": self.tuned.file.prompts_hash}

    @property
    def available(self) -> list[str]:
        """Policies that can be made, in the order of the table."""
        names = set(RACED_POLICIES) | (set() if self.controller is None else set(NEEDS_CONTROLLER))
        if self.tuned is not None:
            names |= set(self.tuned.names)
        return [name for name in EVALUATED_POLICIES if name in names]

    @property
    def needs_race(self) -> bool:
        """Whether a fixed setting has to be chosen."""
        return bool({*RACED_POLICIES} & {*(self.asked or RACED_POLICIES)})

    @property
    def needs_trees(self) -> bool:
        """Whether draft trees are wanted, with what they draw from."""
        return any(map(drafts_trees, self.asked))

    def choose(
        self,
        compression: str,
        costs: CostTable,
        static: StaticChoice | None,
        trees: TreeSituation | None = None,
        best_tree: TreeChoice | None = None,
    ) -> "Choice":
        """The policies of a level, each with one line that says what it is. static, best_tree: what races found."""
        choice = Choice()
        for name in self.asked or self.available:
            if name in RACED_POLICIES:
                assert static is not None  # `needs_race` said so
                self._add_static(choice, name, static)
            elif name == BEST_TREE:
                assert trees is not None and best_tree is not None  # the config asked for them
                choice.add(name, best_tree.policy(trees), best_tree.describe())
            elif is_written_out(name):
                choice.add(name, self._written_out(name, costs), in_words(name) if is_setting(name) else "")
            elif name in TUNED_TREES:
                assert trees is not None and self.tuned is not None  # `open` sees to it
                sources = TreeSources(trees.stores, trees.rates())
                choice.add(
                    name, self.tuned.tree(name, compression, costs, sources), self.tuned.describe(name, compression)
                )
            elif drafts_trees(name):
                assert trees is not None  # `needs_trees` said so
                choice.add(name, tree_policy(name, trees), "")
            elif name in NEEDS_CONTROLLER:
                self._add_controllers(choice, name, compression, costs)
            else:
                assert self.tuned is not None  # `open` sees to it
                policy = self.tuned.policy(name, compression, costs, self.controller)
                choice.add(name, policy, self.tuned.describe(name, compression))
        return choice

    def _written_out(self, name: str, costs: CostTable) -> Policy:
        """A fixed setting wears the guard, as it does in `generate`; a policy of a user's own stays as it is."""
        policy = written_out(name)
        return GuardedPolicy(policy, costs, self.num_layers) if is_setting(name) else policy

    def _add_static(self, choice: "Choice", name: str, static: StaticChoice) -> None:
        vocabulary = None if self.controller is None else self.controller.draft_vocabulary
        is_annealed = name == "best_static_annealed"
        if not is_annealed:
            choice.add(name, static.policy(vocabulary), static.describe())
        elif self.asked or static.action(is_annealed=True) != static.action():
            choice.add(name, static.policy(vocabulary, is_annealed=True), both(static.action(is_annealed=True).name))

    def _add_controllers(self, choice: "Choice", name: str, compression: str, costs: CostTable) -> None:
        assert self.controller is not None  # the config and `available` see to it
        controller = self.controller
        policy = controller_policy(name, compression, costs, controller)
        if name == "best_static_learned":
            action = learned_action(controller, compression, costs)
            choice.add(name, policy, f"{both(action.name)}, chosen on the steps that the controller carries")
            return
        choice.add(name, policy, "")
        level = trained_level(controller, compression)
        played = controller.config.static_actions.get(level)
        if compression != level:
            levels = ", ".join(controller.config.compressions)
            choice.notes.append(f"controller: trained on {levels}, decides as for {level}")
        if played is not None:
            choice.notes.append(f"controller: found nothing faster in training than {both(played.name)} at every step")


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
