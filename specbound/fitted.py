"""What `specbound fit` and `train-controller` leave in a folder, as a policy for a model that somebody has loaded.

The only place that knows what the file `decoder.json` says: which policy was found to be the fastest, at which level
and exactness, for which model.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from specbound.decoding.live_model import TrainedFor
from specbound.decoding.model.families import num_layers_of
from specbound.models.controllers import load_controller
from specbound.models.fingerprint import model_fingerprint
from specbound.models.hub import is_hub_name, pull_folder
from specbound.models.loading import LoadedModel
from specbound.models.names import FITTED_FILE
from specbound.policies import controller_policy
from specbound.pricing.local import choose_costs, required_costs
from specbound.results.files import write_whole
from specbound.stores.trees import local_situation, tree_policy
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_controller.fingerprint import same_model
from specbound_controller.guarded import GuardedPolicy
from specbound_controller.own_policy import is_own_policy, own_policy
from specbound_controller.policy import Policy, StaticPolicy
from specbound_controller.settings import Setting, is_setting
from specbound_controller.trees.names import is_tree_name
from specbound_controller.trees.settings import TreeSources
from specbound_profiling.costs.machine import machine_fingerprint
from specbound_profiling.log.manifest import read_costs
from specbound_profiling.recording.config import auto_exit_layers

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit` found for a model."""

    policy: str
    """`plain`, `controller`, a tree, or `static:...`."""
    compression: str
    exactness: str
    model_fingerprint: str
    num_layers: int
    answer: str
    """The result in words."""
    exits: str = ""
    """Name of the trained exits that the policy drafts with; empty where it needs none."""

    def write(self, folder: Path) -> None:
        """Writes the file, whole or not at all."""
        content = json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n"
        write_whole(folder / FITTED_FILE, content.encode("utf-8"))

    @staticmethod
    def read(folder: Path) -> "Fitted | None":
        """What stands in a folder; None where `fit` has not finished there. Raises InputError where it is damaged."""
        path = folder / FITTED_FILE
        if not path.is_file():
            return None
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("schema") != SCHEMA:
                raise ValueError("it is of another version")
            return Fitted(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{path} was not written by specbound fit: {error}; fit again") from error

    def check_model(self, fingerprint: str, num_layers: int) -> None:
        """Raises InputError, naming both values, where the model is another one."""
        if num_layers != self.num_layers or not same_model(fingerprint, self.model_fingerprint):
            raise InputError(
                f"the folder was fitted for the model with fingerprint {self.model_fingerprint[:16]} "
                f"({self.num_layers} layers), got {fingerprint[:16]} ({num_layers}); run specbound fit for this model"
            )

    def check_exits(self, exits: TrainedFor | None) -> None:
        """Raises InputError where the policy drafts with trained exits and a decoder is not given these."""
        given = "none" if exits is None else exits.vocabulary.exits
        if self.exits not in ("", given):
            raise InputError(
                f"the folder was fitted with the trained exits {self.exits}, got {given}: give them too, as --exits or "
                "exits=TrainedExits.from_pretrained(...)"
            )


def opened(
    name: str,
    model: PreTrainedModel,
    compression: str,
    exactness: str | None,
    is_compiled: bool,
    exits: TrainedFor | None = None,
) -> tuple[str, Callable[[], Policy]]:
    """The exactness that was measured (or that is asked for), and what makes the policy when it is first needed.

    Raises InputError where a name is no folder and no controller, or belongs to another model.
    """
    if name not in ("demo", "none") and is_hub_name(name):
        name = str(pull_folder(name))
    folder = Path(name).expanduser()
    fitted = Fitted.read(folder) if folder.is_dir() else None
    fingerprint, num_layers = model_fingerprint(model), num_layers_of(model)
    if fitted is None:
        controller = load_controller(name)
        if controller is None:
            return exactness or "token", lambda: StaticPolicy((), w_max=0)
        controller.check_model(fingerprint, num_layers)
        level = exactness or "token"
        return level, lambda: _controlled(controller, _loaded(model, compression, exits), level, is_compiled)
    fitted.check_model(fingerprint, num_layers)
    fitted.check_exits(exits)
    level = exactness or fitted.exactness

    def make() -> Policy:
        if fitted.policy == "plain":
            return StaticPolicy((), w_max=0)
        costs = _costs(folder, _loaded(model, compression, exits), level, is_compiled)
        controller = load_controller(str(folder)) if fitted.policy == "controller" else None
        return named(fitted.policy, model, compression, costs, controller)

    return level, make


def named(
    name: str,
    model: PreTrainedModel,
    compression: str,
    costs: CostTable,
    controller: Controller | None = None,
    is_guarded: bool = True,
) -> Policy:
    """The policy of a name at given prices: `plain`, `controller`, `static:...`, `module:Class`, or a tree.

    is_guarded: whether fixed settings and trees fall back to plain decoding where they do not pay.
    """
    if name == "plain":
        return StaticPolicy((), w_max=0)
    if name == "controller":
        return _played(controller, model, compression, costs)
    num_layers = num_layers_of(model)
    if is_own_policy(name):
        return own_policy(name)
    if is_setting(name):
        policy: Policy = Setting.parse(name).policy()
    elif is_tree_name(name):
        policy = tree_policy(name, local_situation(model, costs, _quietly))
        if hasattr(policy, "guard"):
            return policy
    else:
        raise InputError(
            f"policy must be plain, controller, static:..., a tree such as tree7, or module:Class, got {name!r}"
        )
    return GuardedPolicy(policy, costs, num_layers) if is_guarded else policy


def guarded(
    policy: Policy,
    model: PreTrainedModel,
    compression: str,
    exactness: str,
    is_compiled: bool,
    exits: TrainedFor | None = None,
) -> GuardedPolicy:
    """A policy behind the never-slower guard, at the prices of this machine: measured before, or now."""
    loaded = _loaded(model, compression, exits)
    costs, _ = required_costs(loaded, _exits(loaded), exactness, None, is_compiled)
    return GuardedPolicy(policy, costs, num_layers_of(model))


def _controlled(controller: Controller, loaded: LoadedModel, exactness: str, is_compiled: bool) -> Policy:
    costs, _ = choose_costs("auto", controller, loaded, exactness, is_compiled)
    return _played(controller, loaded.model, loaded.compression, costs)


def _played(controller: Controller | None, model: PreTrainedModel, compression: str, costs: CostTable) -> Policy:
    """The controller's chains, or its draft trees where training found them faster."""

    def sources() -> TreeSources:
        return local_situation(model, costs, _quietly).sources()

    return controller_policy("controller", compression, costs, controller, sources)


def _costs(folder: Path, loaded: LoadedModel, exactness: str, is_compiled: bool) -> CostTable:
    """The folder's own table where it is from this machine; else this user's."""
    own = read_costs(folder).get(loaded.compression)
    here = machine_fingerprint(loaded.model.device)
    if own is not None and not is_compiled and (own.machine, own.exactness) == (here, exactness):
        return own
    return required_costs(loaded, _exits(loaded), exactness, None, is_compiled)[0]


def _loaded(model: PreTrainedModel, compression: str, exits: TrainedFor | None) -> LoadedModel:
    return LoadedModel(model, None, type(model).__name__, compression, exits)


def _exits(loaded: LoadedModel) -> tuple[int, ...]:
    return auto_exit_layers(num_layers_of(loaded.model), loaded.trained_layers)


def _quietly(line: str) -> None:
    """Progress says what goes on."""
