"""Self-speculative decoding with a trained controller. Names are imported when they are first used (PEP 562)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specbound.decoding.decoder import SpecBoundDecoder
    from specbound.models.loading import load_model
    from specbound_controller.controller import Controller
    from specbound_controller.policy import StaticPolicy

__version__ = "0.1.0"

__all__ = ["Controller", "SpecBoundDecoder", "StaticPolicy", "__version__", "load_model"]

_MODULES = {
    "Controller": "specbound_controller.controller",
    "SpecBoundDecoder": "specbound.decoding.decoder",
    "StaticPolicy": "specbound_controller.policy",
    "load_model": "specbound.models.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'specbound' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
