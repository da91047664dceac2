"""A model as it is at the moment of a call, behind the adapters that run it. Knows nothing of calls and drafts."""

import threading
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from specbound.decoding.model.adapter import ModelAdapter, autocast_dtype
from specbound.decoding.model.composition import Composition
from specbound.decoding.model.exit_modules import ExitSet
from specbound.decoding.model.wrapped import refuse_offloaded, unwrapped
from specbound.decoding.step_model import step_adapter


class TrainedFor(Protocol):
    """Trained exits that know their model (`specbound.exits.TrainedExits`)."""

    def for_model(self, model: PreTrainedModel) -> ExitSet:
        """The modules. Raises InputError where they were trained for another model."""


class LiveModel:
    """The adapters of one model: one for every autocast region that it is called in, each with its own for steps.

    They follow what the owner changes between calls; several threads may ask for them.
    """

    def __init__(self, given: Any, exactness: str, exits: TrainedFor | None = None) -> None:
        """Makes the adapters for the place where it is called.

        given: a model, possibly inside `torch.compile` or PEFT.
        exits: trained ones.
        """
        self.given, self.exits = given, exits
        self.exactness = exactness
        self.model: PreTrainedModel = unwrapped(given)
        self._lock = threading.Lock()
        self._adapters: dict[torch.dtype | None, ModelAdapter] = {}
        self._of_steps: dict[tuple[torch.dtype | None, int], tuple[Composition, ModelAdapter]] = {}
        self.current()

    def current(self) -> tuple[ModelAdapter, ModelAdapter]:
        """What runs prompts, and what runs steps (at `bitwise` a row-stable twin), here and now.

        Raises:
            UnsupportedModelError: the model as it is now cannot be run, or not at this exactness.
        """
        with self._lock:
            unwrapped(self.given)  # adapters that work outside the layers may have come
            refuse_offloaded(self.model)
            region = autocast_dtype(self.model)
            adapter = self._adapters.get(region)
            if adapter is None:
                exits = None if self.exits is None else self.exits.for_model(self.model)
                adapter = self._adapters[region] = ModelAdapter(self.model, exits)
            else:
                adapter.refresh()
            return adapter, self._step_adapter(adapter)

    def _step_adapter(self, adapter: ModelAdapter) -> ModelAdapter:
        """Made and tried anew where the model has changed, or the number of threads."""
        if self.exactness == "token":
            return adapter
        place = (adapter.autocast, torch.get_num_threads())
        composition, found = self._of_steps.get(place, (None, None))
        if found is None or composition is not adapter.composition:
            found = step_adapter(adapter, self.exactness)
            self._of_steps[place] = adapter.composition, found
        else:
            found.refresh()
        return found
