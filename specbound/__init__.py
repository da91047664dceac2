"""Self-speculative decoding with a trained controller: the names that a user imports, and `docs/api.md` explains.

They are imported when they are first used (PEP 562), so that `import specbound` costs nothing. Everything else may move
from one version to the next.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specbound.analysis.replay import replay_log as replay
    from specbound.analysis.replay_config import ReplayConfig
    from specbound.decoding.decoder import SpecBoundDecoder
    from specbound.evaluation.config import EvaluateConfig
    from specbound.evaluation.run import evaluate
    from specbound.exits.trained import TrainedExits
    from specbound.models.controllers import load_controller
    from specbound.models.hub import HubController
    from specbound.models.loading import LoadedModel, load_model
    from specbound.pricing.config import CostsConfig
    from specbound.pricing.costs import measure_all as measure_costs
    from specbound.pricing.local import choose_costs
    from specbound.stores.auto import auto_policy
    from specbound_controller.controller import Controller
    from specbound_controller.errors import InputError
    from specbound_controller.policy import AnnealedConfidence, DraftingFrom, Policy, StaticPolicy
    from specbound_controller.records import Decision, StepRecord
    from specbound_controller.trees.plan import TreePlan
    from specbound_controller.trees.policy import TreePolicy
    from specbound_profiling.recording.config import ProfileConfig
    from specbound_profiling.recording.profile import profile
    from specbound_train.config import TrainConfig
    from specbound_train.exits.config import TrainExitsConfig
    from specbound_train.exits.train import train_exits
    from specbound_train.train import train_controller

__version__ = "0.1.0"

__all__ = [
    "AnnealedConfidence",
    "Controller",
    "CostsConfig",
    "Decision",
    "DraftingFrom",
    "EvaluateConfig",
    "HubController",
    "InputError",
    "LoadedModel",
    "Policy",
    "ProfileConfig",
    "ReplayConfig",
    "SpecBoundDecoder",
    "StaticPolicy",
    "StepRecord",
    "TrainConfig",
    "TrainExitsConfig",
    "TrainedExits",
    "TreePlan",
    "TreePolicy",
    "__version__",
    "auto_policy",
    "choose_costs",
    "evaluate",
    "load_controller",
    "load_model",
    "measure_costs",
    "profile",
    "replay",
    "train_controller",
    "train_exits",
]

_HOMES = {
    "AnnealedConfidence": "specbound_controller.policy:AnnealedConfidence",
    "Controller": "specbound_controller.controller:Controller",
    "CostsConfig": "specbound.pricing.config:CostsConfig",
    "Decision": "specbound_controller.records:Decision",
    "DraftingFrom": "specbound_controller.policy:DraftingFrom",
    "EvaluateConfig": "specbound.evaluation.config:EvaluateConfig",
    "HubController": "specbound.models.hub:HubController",
    "InputError": "specbound_controller.errors:InputError",
    "LoadedModel": "specbound.models.loading:LoadedModel",
    "Policy": "specbound_controller.policy:Policy",
    "ProfileConfig": "specbound_profiling.recording.config:ProfileConfig",
    "ReplayConfig": "specbound.analysis.replay_config:ReplayConfig",
    "SpecBoundDecoder": "specbound.decoding.decoder:SpecBoundDecoder",
    "StaticPolicy": "specbound_controller.policy:StaticPolicy",
    "StepRecord": "specbound_controller.records:StepRecord",
    "TrainConfig": "specbound_train.config:TrainConfig",
    "TrainExitsConfig": "specbound_train.exits.config:TrainExitsConfig",
    "TrainedExits": "specbound.exits.trained:TrainedExits",
    "TreePlan": "specbound_controller.trees.plan:TreePlan",
    "TreePolicy": "specbound_controller.trees.policy:TreePolicy",
    "auto_policy": "specbound.stores.auto:auto_policy",
    "choose_costs": "specbound.pricing.local:choose_costs",
    "evaluate": "specbound.evaluation.run:evaluate",
    "load_controller": "specbound.models.controllers:load_controller",
    "load_model": "specbound.models.loading:load_model",
    "measure_costs": "specbound.pricing.costs:measure_all",
    "profile": "specbound_profiling.recording.profile:profile",
    "replay": "specbound.analysis.replay:replay_log",
    "train_controller": "specbound_train.train:train_controller",
    "train_exits": "specbound_train.exits.train:train_exits",
}
"""Public name -> module and name where it lives today."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'specbound' has no attribute {name!r}")
    module, attribute = _HOMES[name].split(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
