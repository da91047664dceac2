"""A model under another generation config than its own: what transformers would fill in from it is out of the way."""

import copy

from transformers import GenerationConfig, PreTrainedModel


def greedy_twin(model: PreTrainedModel, has_end: bool = True) -> PreTrainedModel:
    """The same model with its end and padding tokens, and nothing else, in its generation config.

    has_end: False leaves the end tokens out as well, so that the output is as long as its limit.

    transformers fills what a call's generation config leaves unset from the model's own, so settings that sample or
    penalise need a copy to be rid of them: a shallow one, which shares the weights and leaves the model as it is.
    """
    own = model.generation_config
    eos = own.eos_token_id
    pad = own.pad_token_id if own.pad_token_id is not None else eos[0] if isinstance(eos, list) else eos
    return with_generation_config(model, GenerationConfig(eos_token_id=eos if has_end else None, pad_token_id=pad))


def with_generation_config(model: PreTrainedModel, config: GenerationConfig) -> PreTrainedModel:
    """A shallow copy of a model with a generation config in place of its own."""
    twin = copy.copy(model)
    twin.generation_config = config
    return twin
