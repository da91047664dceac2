"""What transformers' generate would run and the decoder leaves out: it must be transformers' own, or is refused.

The decoder calls embedding, layers, norm and head itself. The forward passes of the model and of its body, the helpers
that they call and the methods of transformers' decoding loop are left out, so that whatever somebody else put there (a
subclass, a patch, a hook, another mask) would be left out with them, and the output would be another model's.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from specbound.decoding.model.composition import Place, found, global_hooks
from specbound.decoding.model.families import SLIDING, body_of, layer_kinds, name_of, num_layers_of
from specbound_controller.errors import UnsupportedModelError

LIBRARIES = frozenset({"transformers", "torch", "functools", "contextlib"})
"""Top-level packages whose functions are what the decoder takes them for."""
LOOP_METHODS = (
    "__call__",
    "_call_impl",
    "forward",
    "prepare_inputs_for_generation",
    "_update_model_kwargs_for_generation",
    "_prefill",
    "_sample",
)
"""Methods of a model that transformers' decoding loop calls at every token."""
MOVING_HOOKS = frozenset({"AlignDevicesHook", "CpuOffload", "UserCpuOffloadHook", "SequentialHook"})
"""Hooks of accelerate that move tensors between devices and change nothing else."""


def left_out_places(model: PreTrainedModel, called_once: Iterable[nn.Module]) -> list[Place]:
    """Every function that is left out, by the place where transformers would find it: what `Composition` compares.

    called_once: modules that transformers calls at every token.
    """
    body = body_of(model)
    places: list[Place] = [(type(model), name) for name in LOOP_METHODS]
    places += [(type(body), name) for name in ("__call__", "_call_impl", "forward")]
    places += [(model.__dict__, name) for name in LOOP_METHODS]
    places += [(type(module), "forward") for module in called_once]
    for module in (model, body):
        places += helper_places(type(module).forward)
    return places


def refuse_left_out(model: PreTrainedModel) -> None:
    """Raises `UnsupportedModelError` that names what somebody put where the decoder does not look."""
    body, name = body_of(model), name_of(model)
    hooks = global_hooks()
    if hooks:
        raise UnsupportedModelError(
            f"torch calls {described(hooks[0])} around every module, which {name} would be decoded without: remove the "
            "global hook"
        )
    for module, place, methods in ((model, "the model", LOOP_METHODS), (body, "its body", ("__call__", "forward"))):
        for kind in ("_forward_hooks", "_forward_pre_hooks"):
            for hook in getattr(module, kind).values():
                raise UnsupportedModelError(
                    f"{name} has a hook on {place} ({described(hook)}), which the decoder would not call: it runs "
                    "embedding, layers, norm and head itself; put it on one of these or remove it"
                )
        for method in methods:
            refuse_foreign(module, method, f"{name}: {place}")
        for namespace, helper in helper_places(type(module).forward):
            if not is_library(found((namespace, helper))):
                raise UnsupportedModelError(
                    f"{name}: {helper} in {namespace['__name__']} is {described(namespace[helper])}, which the decoder "
                    "would leave out: restore transformers' own"
                )
    knows_windows = "create_sliding_window_causal_mask" in referenced(type(body).forward)
    if SLIDING in layer_kinds(body.config, num_layers_of(model)) and not knows_windows:
        raise UnsupportedModelError(
            f"{name}: config.sliding_window is set, and {type(body).__name__} knows no windows: set it to None"
        )
    mask = ALL_MASK_ATTENTION_FUNCTIONS[body.config._attn_implementation]
    if not is_library(mask):
        raise UnsupportedModelError(
            f"{name}: masks of {body.config._attn_implementation!r} are made by {described(mask)}, which the decoder "
            "would leave out: restore transformers' own"
        )


def refuse_changed_parts(model: PreTrainedModel, rotary: nn.Module | None, table: nn.Module | None) -> None:
    """Raises where parts are not what they are taken for.

    rotary: called once for many positions, and not at every token. table: of positions, called in another way than
    transformers does, unless it is a plain embedding.
    """
    body, name = body_of(model), name_of(model)
    for part, place in ((rotary, "rotary embedding"), (table, "position table")):
        if part is None or type(part) is nn.Embedding:
            continue
        refuse_foreign(part, "forward", f"{name}: its {place}")
        if part._forward_hooks or part._forward_pre_hooks:
            raise UnsupportedModelError(f"{name} has a hook on its {place}, which is not called at every token")
    for key in referenced(type(body).forward):
        part = body._modules.get(key)
        is_left_out = "drop" in key and part is not None
        if is_left_out and (type(part) not in (nn.Dropout, nn.Identity) or not is_unhooked(part)):
            raise UnsupportedModelError(
                f"{name}: {key} is a {type(part).__name__} with more to it than dropout, which the decoder would leave "
                "out: put nn.Dropout back"
            )


def refuse_foreign(module: Any, method: str, place: str) -> None:
    """Raises unless a method of a module is transformers' own, and the instance has none of its own.

    accelerate's, which moves tensors between devices, and a compiled one are what they wrap.
    """
    own = module.__dict__.get(method)
    while own is not None:
        if hasattr(own, "_torchdynamo_orig_callable"):
            own = own._torchdynamo_orig_callable
        elif is_moving(module, own):
            own = module._old_forward
        elif getattr(own, "__self__", None) is module and own.__func__ is getattr(type(module), method):
            break
        else:
            raise UnsupportedModelError(
                f"{place} has a {method} of its own ({described(own)}), which the decoder would not call: remove it"
            )
    of_class = getattr(type(module), method)
    if not is_library(of_class):
        raise UnsupportedModelError(
            f"{place} has the {method} of {described(of_class)}, which the decoder would not call: it runs what "
            "transformers' own class runs"
        )


def is_moving(module: Any, forward: Any) -> bool:
    """Whether a module's own forward is accelerate's, with a hook that only moves tensors."""
    if not isinstance(forward, functools.partial) or forward.func.__module__ != "accelerate.hooks":
        return False
    hook = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", (hook,))
    return all(type(each).__module__ == "accelerate.hooks" and type(each).__name__ in MOVING_HOOKS for each in hooks)


def is_unhooked(module: Any) -> bool:
    """Whether a module has neither hooks nor a forward of its own."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def is_library(function: Any) -> bool:
    """Whether a function, and all that it wraps, was written in transformers or torch. Builtins are torch's."""
    for each in unwrapped_chain(function):
        namespace = getattr(each, "__globals__", None)
        if namespace is not None and namespace.get("__name__", "").partition(".")[0] not in LIBRARIES:
            return False
        if namespace is None and not is_builtin(each):
            return False
    return True


def is_builtin(function: Any) -> bool:
    """Whether something is compiled code, or a class of a library, which has no namespace to look at."""
    module = getattr(function, "__module__", None) or ""
    return type(function).__name__.startswith("builtin") or module.partition(".")[0] in LIBRARIES


def unwrapped_chain(function: Any) -> Iterator[Any]:
    """A function with those that its decorators say they wrap, the innermost last."""
    while function is not None:
        function = getattr(function, "__func__", function)
        yield function
        function = getattr(function, "__wrapped__", None)


def referenced(function: Any) -> tuple[str, ...]:
    """Names of globals and attributes that the innermost function of a chain uses."""
    innermost = list(unwrapped_chain(function))[-1]
    code = getattr(innermost, "__code__", None)
    return code.co_names if code is not None else ()


def helper_places(function: Any) -> list[Place]:
    """The functions of its module that a forward pass calls."""
    namespace = getattr(list(unwrapped_chain(function))[-1], "__globals__", {})
    names = [name for name in referenced(function) if name in namespace]
    return [(namespace, name) for name in names if hasattr(namespace[name], "__code__")]


def described(function: Any) -> str:
    """A function or hook by its module and name."""
    function = getattr(function, "__func__", function)
    named = function if hasattr(function, "__qualname__") else type(function)
    namespace = getattr(function, "__globals__", {})
    return f"{namespace.get('__name__', named.__module__)}.{named.__qualname__}"
