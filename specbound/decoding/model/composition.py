"""What a model is made of: remembered when it is looked at, compared at every call, in a fraction of a millisecond.

An owner may change a model between two calls in many ways: other modules, weights, hooks, configs, kernels, functions.
Whoever relies on what it saw asks `is_current` first. Knows no layers and runs nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

Place = tuple[Any, str]
"""A class or a namespace (a mapping) with a name in it, under which a function is found at every call."""

CONTAINERS = (list, dict, set)
SCALARS = (bool, int, float, str, type(None))
PARTS = ("_modules", "_parameters", "_forward_hooks", "_forward_pre_hooks")
"""The dicts of a module that say what it is made of."""


class Composition:
    """A model's modules, parameters, hooks, training flags, configs and functions at one moment."""

    def __init__(self, model: nn.Module, places: Iterable[Place] = (), copied: Iterable[nn.Module] = ()) -> None:
        """Remembers what the model is made of.

        Args:
            model: the root of the modules.
            places: functions that are relied on.
            copied: small modules of whose buffers the numbers are relied on, and not only the memory.
        """
        self._modules = _Modules(model)
        self._facts = list(self._modules.facts())
        configs = {id(config): config for own in self._modules.own if (config := own.get("config")) is not None}
        self._configs = [(config, _settings(config)) for config in configs.values()]
        self._functions = [(*place, found(place)) for place in places]
        self._copied = [(module, [buffer.detach().clone() for buffer in module.buffers()]) for module in copied]
        self._global_hooks = global_hooks()

    def is_current(self) -> bool:
        """Whether the model still is made of the same, as far as its modules say."""
        try:
            is_same = all(now == then for now, then in zip(self._modules.facts(), self._facts, strict=True))
        except KeyError:
            return False  # a module has lost a setting
        return (
            is_same
            and all(_settings(config) == settings for config, settings in self._configs)
            and all(found((namespace, name)) is function for namespace, name, function in self._functions)
            and all(_are_equal(module.buffers(), numbers) for module, numbers in self._copied)
            and global_hooks() == self._global_hooks
        )


class _Modules:
    """The modules of a model with the places in them that are read at every call, all of one kind together."""

    def __init__(self, model: nn.Module) -> None:
        self.all = list(model.modules())
        self.own: list[dict[str, Any]] = [module.__dict__ for module in self.all]
        self.parts = {name: [own[name] for own in self.own] for name in PARTS}
        watched = [(own, _watched(module)) for module, own in zip(self.all, self.own, strict=True)]
        self.settings = [(itemgetter(*names), own) for own, names in watched if names]

    def facts(self) -> Iterator[list[Any]]:
        """What is compared, the most likely changes first. Tensors by identity: numbers would take a pass's time."""
        yield [own.get("training") for own in self.own]
        yield list(map(type, self.all))
        yield [id(own.get("config")) for own in self.own]
        for parts in self.parts.values():
            yield list(map(len, parts))
        yield list(chain.from_iterable(map(dict.values, self.parts["_modules"])))
        yield list(chain.from_iterable(map(dict.values, self.parts["_forward_hooks"])))
        yield list(chain.from_iterable(map(dict.values, self.parts["_forward_pre_hooks"])))
        parameters = [p for p in chain.from_iterable(map(dict.values, self.parts["_parameters"])) if p is not None]
        yield list(map(id, parameters))
        yield list(map(attrgetter("dtype", "device"), parameters))
        yield [own.get("forward") for own in self.own]
        yield [own.get("_compiled_call_impl") for own in self.own]
        yield [get(own) for get, own in self.settings]


def _are_equal(buffers: Iterable[Tensor], numbers: list[Tensor]) -> bool:
    now = list(buffers)
    return len(now) == len(numbers) and all(
        a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in zip(now, numbers, strict=True)
    )


def found(place: Place) -> Any:
    """What stands at a place now; None where nothing does."""
    namespace, name = place
    return namespace.get(name) if isinstance(namespace, Mapping) else getattr(namespace, name, None)


def global_hooks() -> tuple[Any, ...]:
    """Hooks that torch calls around every module of the process."""
    return (*torch_module._global_forward_hooks.values(), *torch_module._global_forward_pre_hooks.values())


def _watched(module: nn.Module) -> tuple[str, ...]:
    """Names of the plain settings of a module that is not torch's own: an epsilon, a scale, a number of heads.

    Of torch's own only an embedding's limit is relied on: rows are read from its table.
    """
    if type(module) is nn.Embedding:
        return ("max_norm",)
    if type(module).__module__.startswith("torch.nn."):
        return ()
    own = module.__dict__.items()
    return tuple(name for name, value in own if not name.startswith("_") and isinstance(value, SCALARS))


def _settings(config: Any) -> dict[str, Any]:
    """A config's settings; what may change in place is copied."""
    return {name: value.copy() if isinstance(value, CONTAINERS) else value for name, value in config.__dict__.items()}
