"""A device simulated on the CPU, on which every transfer to and from the host is counted.

Tensors say that they are on another device and compute on the CPU. What counts is where a GPU and its host would wait
for one another: values that are read, lists that are copied to the device, results whose size the device decides.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("meta")  # "cuda" asks for guards that torch has only where it can run them
aten = torch.ops.aten


class OnDevice(Tensor):
    """A tensor that says it is on the device."""

    host: Tensor
    crossings: ClassVar[Counter[str]] = Counter()
    """Transfers so far, by name: `read` to the host, `written` to the device, `sized` by the device."""

    @staticmethod
    def __new__(cls: type, host: Tensor) -> "OnDevice":
        with torch.inference_mode(False):  # a view must share its version with what it is of
            made: OnDevice = Tensor._make_wrapper_subclass(
                cls, host.shape, strides=host.stride(), dtype=host.dtype, device=DEVICE
            )
        made.host = host
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"OnDevice({tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default):
            cls.crossings["read"] += 1
        if func in (aten.nonzero.default, aten.masked_select.default) or is_masked_index(func, args):
            cls.crossings["sized"] += 1
        target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        is_move = func is aten._to_copy.default or func.overloadpacket is aten.to
        to_host = is_move and target is not None and target.type == "cpu"
        if func is aten.copy_.default:
            to_host = not isinstance(args[0], OnDevice)
            if not isinstance(args[1], OnDevice):
                cls.crossings["written"] += 1
        if to_host:
            cls.crossings["read"] += 1
        if target is not None:
            kwargs["device"] = torch.device("cpu")
        wrappers: dict[int, Tensor] = {}

        def unwrapped(leaf: Any) -> Any:
            if isinstance(leaf, OnDevice):
                wrappers[id(leaf.host)] = leaf
                return leaf.host
            if isinstance(leaf, Tensor) and leaf.ndim > 0 and func is not aten.copy_.default:
                raise AssertionError(f"{func} mixes tensors of the host and of the device")
            return leaf

        def wrapped(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or to_host:
                return leaf
            return wrappers[id(leaf)] if id(leaf) in wrappers else OnDevice(leaf)

        result = func(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
        return args[0] if func is aten.copy_.default else tree_map(wrapped, result)


def is_masked_index(func: Any, args: tuple) -> bool:
    """Whether an index has a mask in it: how much it selects only the device knows."""
    if func not in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
        return False
    return any(index is not None and index.dtype == torch.bool for index in args[1])


class SimulatedDevice(TorchFunctionMode):
    """Makes and moves tensors to the device, which is not there, by wrapping them."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to and any(place in (DEVICE, DEVICE.type) for place in (*args[1:], kwargs.get("device"))):
            return to_device(args[0])
        if func is Tensor.tolist and isinstance(args[0], OnDevice):  # which subclasses do not have
            OnDevice.crossings["read"] += 1
            return args[0].host.tolist()
        if func is Tensor.__setitem__ and isinstance(args[0], OnDevice) and isinstance(args[2], (bool, int, float)):
            tensor, index, value = args  # torch fills on the device as well; here it would make a tensor on `meta`
            is_mask = isinstance(index, Tensor) and index.dtype == torch.bool
            return tensor.masked_fill_(index, value) if is_mask else tensor[index].fill_(value)
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == DEVICE.type and "new_" not in func.__name__:
            OnDevice.crossings["written"] += func is torch.tensor
            return OnDevice(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def to_device(tensor: Tensor) -> Tensor:
    """The tensor on the device; a transfer where it is not there already."""
    if isinstance(tensor, OnDevice):
        return tensor
    OnDevice.crossings["written"] += 1
    return OnDevice(tensor.detach())


@torch.inference_mode()
def move_to_device(model: nn.Module) -> None:
    """Moves all parameters and buffers of a model."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(OnDevice(parameter.detach().clone()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer.clone())
