"""transformers' own ways to decode: generate, early exit, its schedules, a draft model, prompt lookup.

Every parameter is set where it takes effect: draft length, threshold and schedule are read from the generation config
of whatever drafts and ignored as arguments of `generate`; the exit layer and the length of prompt lookup are arguments.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from specbound.bench.observe import Observation, observe_transformers
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.decoding.model.families import name_of
from specbound.evaluation.timing import TimedPrompt
from specbound_controller.errors import UnsupportedModelError

DEFAULT_LENGTH, DEFAULT_THRESHOLD, DEFAULT_SCHEDULE = 20, 0.4, "constant"
"""What transformers takes where nothing is said."""
DOCUMENTED_EXIT = 4
"""The exit layer of the example in transformers' documentation."""


@dataclass(frozen=True, slots=True)
class Assistance:
    """Who drafts in transformers' assisted generation, and how."""

    kind: str
    """`early_exit`, `draft_model` (the first layers as a model of its own) or `prompt_lookup`."""
    length: int = DEFAULT_LENGTH
    """Draft tokens."""
    exit_layer: int = 0
    """Layers of the draft; 0 for prompt lookup."""
    threshold: float = DEFAULT_THRESHOLD
    """Least confidence of a draft token; 0 drafts the whole length. A draft model's is adapted as it goes."""
    schedule: str = DEFAULT_SCHEDULE
    """`constant`, `heuristic` or `heuristic_transient`."""

    @property
    def name(self) -> str:
        """Readable name, such as `exit4_length2_confidence0.4`."""
        if self.kind == "prompt_lookup":
            return f"length{self.length}"
        name = f"exit{self.exit_layer}_length{self.length}_confidence{self.threshold:g}"
        return name if self.schedule == DEFAULT_SCHEDULE else f"{name}_{self.schedule}"


class TransformersMethod:
    """One way of transformers to decode, greedily or sampling."""

    def __init__(self, name: str, model: PreTrainedModel, assistance: Assistance | None = None) -> None:
        """assistance: None is plain generate."""
        self.name, self.assistance = name, assistance
        self.adapter = ModelAdapter(model)
        self._arguments: dict[str, Any] = {}
        self._twin = greedy_twin(model)
        self._drafter = self._twin
        if assistance is None:
            return
        if assistance.kind == "early_exit":
            self._arguments["assistant_early_exit"] = assistance.exit_layer
        elif assistance.kind == "prompt_lookup":
            self._arguments["prompt_lookup_num_tokens"] = assistance.length
        else:
            self._drafter = first_layers(self._twin, assistance.exit_layer)
            self._arguments["assistant_model"] = self._drafter

    @property
    def setting(self) -> str:
        """What was chosen, in one word; empty for plain generate."""
        return self.assistance.name if self.assistance is not None else ""

    def run(self, prompt: TimedPrompt) -> tuple[list[int], None]:
        """New tokens of one prompt."""
        return self._generate(prompt, None), None

    def observe(self, prompt: TimedPrompt) -> Observation:
        """The same, with its counts."""
        length = prompt.input_ids.shape[1]
        return observe_transformers(self.adapter, lambda streamer: self._generate(prompt, streamer), length)

    def _generate(self, prompt: TimedPrompt, streamer: BaseStreamer | None) -> list[int]:
        device, config = self.adapter.device, self.adapter.config
        ids, num_layers = prompt.input_ids.to(device), config.num_hidden_layers
        arguments = {**prompt.sampling, **self._arguments, "max_new_tokens": prompt.max_new_tokens}
        seed = arguments.pop("seed", None)
        self._set_drafting()
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                if seed is not None:
                    torch.manual_seed(seed)
                mask = torch.ones_like(ids)
                output = self._twin.generate(ids, attention_mask=mask, streamer=streamer, **arguments)
        finally:
            config.num_hidden_layers = num_layers  # early exit leaves it truncated after an exception
        return output[0, ids.shape[1] :].tolist()

    def _set_drafting(self) -> None:
        """Before every call: the heuristic schedule writes its length back."""
        if self.assistance is None or self.assistance.kind == "prompt_lookup":
            return
        config = self._drafter.generation_config
        config.num_assistant_tokens = self.assistance.length
        config.assistant_confidence_threshold = self.assistance.threshold
        config.num_assistant_tokens_schedule = self.assistance.schedule


def first_layers(model: PreTrainedModel, num_layers: int) -> PreTrainedModel:
    """A model of the first layers with the same embeddings, norm and head; it shares all weights with `model`.

    Raises UnsupportedModelError where the layers cannot be told apart from the rest.
    """
    prefix, body = model.base_model_prefix, model.get_decoder()
    if getattr(model, prefix, None) is not body:
        raise UnsupportedModelError(f"{name_of(model)} nests its layers: no draft model can be made of the first ones")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:num_layers]
    layers = ModelAdapter(model).family.layers
    draft_body = _shallow(body)
    draft_body._modules[layers] = nn.ModuleList(list(getattr(body, layers))[:num_layers])
    draft = _shallow(model)
    draft._modules[prefix] = draft_body
    for module in (draft, draft_body):
        module.config = config
    draft.generation_config = copy.deepcopy(model.generation_config)
    return draft


def _shallow(module: Any) -> Any:
    """A copy that shares its parts, of which one may then be replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin
