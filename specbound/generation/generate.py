"""One prompt, one model, perhaps a controller: what `specbound generate` does. Knows no command line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from transformers import StopStringCriteria, TextStreamer

from specbound.decoding.decoder import SpecBoundDecoder, request_of
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.stats import DecodeStats
from specbound.evaluation.differences import find_difference
from specbound.exits.trained import with_exits
from specbound.generation.config import DecoderConfig, GenerateConfig
from specbound.models.controllers import load_controller
from specbound.models.fingerprint import model_fingerprint
from specbound.models.loading import LoadedModel, chat_ids, has_chat_template, load_model
from specbound.policies import controller_policy
from specbound.pricing.local import choose_costs
from specbound.results.report import model_info
from specbound.results.rows import Row
from specbound.stores.auto import auto_policy
from specbound.stores.trees import local_situation
from specbound_controller.errors import InputError, MissingExtraError
from specbound_controller.policy_names import is_written_out
from specbound_controller.trees.names import LEARNED_TREE
from specbound_controller.trees.settings import TreeSources
from specbound_profiling.prompts.tokenization import known_ids, text_ids

WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Generation:
    """A continuation and its figures."""

    text: str
    """The new text, special tokens left out."""
    rows: list[Row]
    """The method that was asked for, then plain decoding where it was compared."""
    model: dict[str, Any]
    """What a report says of the model."""
    difference: str = ""
    """Where the outputs first differ, in words; empty where they are equal or were not compared."""
    costs: str = ""
    """Which cost table priced the drafts, in words; empty for plain decoding."""
    accepted: dict[str, int] = field(default_factory=dict)
    """What proposed the drafts that were accepted -> how many."""

    @property
    def is_trustworthy(self) -> bool:
        """No difference was found but one at a verified near-tie."""
        return not self.difference or self.rows[0].num_near_ties > 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model with a decoder for the method that was asked for, and one for plain decoding."""

    loaded: LoadedModel
    plain: SpecBoundDecoder
    decoder: SpecBoundDecoder
    method: str
    """`controller`, `learned_tree`, a tree by name, or `plain`; then both decoders are one."""
    arguments: dict[str, Any]
    """Of every call of a decoder: length, sampling, stop strings."""
    costs: str
    """Which cost table prices the drafts, in words; empty for plain decoding."""


@dataclass(frozen=True, slots=True)
class _Decoded:
    tokens: list[int]
    """New tokens."""
    stats: DecodeStats

    def row(self, method: str, decoder: SpecBoundDecoder) -> Row:
        """As the only row of one prompt."""
        return Row.of(
            self.stats,
            method=method,
            compression=decoder.compression,
            task="all",
            num_prompts=1,
            exactness=decoder.exactness,
        )


def generate(config: GenerateConfig, prompt: str) -> Generation:
    """Continues the prompt; with `config.compare` plain decoding does it too, after a warm-up of both."""
    prepared = prepare(config)
    loaded, plain, decoder, arguments = prepared.loaded, prepared.plain, prepared.decoder, prepared.arguments
    if config.chat or (has_chat_template(loaded) and not config.raw):
        input_ids = known_ids(chat_ids(loaded, [{"role": "user", "content": prompt}]), loaded, "the message")
    else:
        input_ids = text_ids(prompt, loaded, "the prompt")
    if config.compare:
        for each in (plain, decoder):
            _decode(each, input_ids, {**arguments, "max_new_tokens": min(WARM_UP_TOKENS, config.max_new_tokens)})
    streamer = text_streamer(loaded) if config.stream else None
    decoded = _decode(decoder, input_ids, arguments, streamer)
    text = loaded.tokenizer.decode(decoded.tokens, skip_special_tokens=True)
    model = model_info(config.model, loaded.model)
    row = decoded.row(prepared.method, decoder)
    if not config.compare:
        return Generation(text, [row], model, costs=prepared.costs, accepted=decoded.stats.accepted_by_source)
    reference = _decode(plain, input_ids, arguments)
    rows, difference = _compared(row, decoded, reference, prepared, input_ids)
    return Generation(text, rows, model, difference, prepared.costs, decoded.stats.accepted_by_source)


def prepare(config: DecoderConfig) -> Prepared:
    """Loads the model, and what drafts for it."""
    drafts_by_controller = config.method in ("controller", LEARNED_TREE)
    controller = load_controller(config.controller_name) if drafts_by_controller else None
    loaded = with_exits(load_model(config.model, config.compression), config.exits)
    arguments = {"max_new_tokens": config.max_new_tokens, **config.generate_arguments()}
    if config.stop:
        _refuse_unsayable(config.stop, loaded)
        arguments |= {"stop_strings": list(config.stop), "tokenizer": loaded.tokenizer}
    twin = greedy_twin(loaded.model)
    settings: dict[str, Any] = {"record_steps": False, "exactness": config.exactness, "compile": config.compile}
    settings["exits"] = loaded.exits
    plain = SpecBoundDecoder(twin, None, loaded.compression, **settings)
    if config.method == "plain":
        return Prepared(loaded, plain, plain, "plain", arguments, "")
    if config.is_folder:
        decoder = SpecBoundDecoder.from_pretrained(twin, config.policy, compression=loaded.compression, **settings)
        return Prepared(loaded, plain, _made(decoder), "fitted", arguments, "")
    if is_written_out(config.method):
        decoder = SpecBoundDecoder(twin, config.method, loaded.compression, **settings)
        return Prepared(loaded, plain, _made(decoder), config.method, arguments, "")
    if controller is None:
        return _with_tree(config, loaded, plain, settings, arguments)
    controller.check_model(model_fingerprint(loaded.model), plain.adapter.num_layers)
    costs, costs_used = choose_costs(config.costs, controller, loaded, config.exactness, config.compile)
    lines = [costs_used]

    def sources() -> TreeSources:
        return local_situation(loaded.model, costs, lines.append, config.own_text).sources()

    policy = controller_policy(config.method, loaded.compression, costs, controller, sources)
    decoder = SpecBoundDecoder(twin, policy, loaded.compression, **settings)
    return Prepared(loaded, plain, decoder, config.method, arguments, "; ".join(lines))


def _made(decoder: SpecBoundDecoder) -> SpecBoundDecoder:
    """The same once what it needs of this machine has been measured."""
    assert decoder.policy is not None
    return decoder


def _refuse_unsayable(stop: Sequence[str], loaded: LoadedModel) -> None:
    """Raises InputError, before any work, where transformers cannot look for a stop text with this tokenizer."""
    try:
        StopStringCriteria(loaded.tokenizer, list(stop))
    except ValueError as error:
        raise InputError(
            f"stop cannot be looked for by transformers with the tokenizer of model {loaded.name!r}, got "
            f"{', '.join(map(repr, stop))}: {str(error).partition('. ')[0]}"
        ) from error


def _with_tree(
    config: DecoderConfig,
    loaded: LoadedModel,
    plain: SpecBoundDecoder,
    settings: dict[str, Any],
    arguments: dict[str, Any],
) -> Prepared:
    """A tree of the free sources; where nobody asked for it and it cannot be priced, plain decoding."""
    lines: list[str] = []
    try:
        policy = auto_policy(
            loaded.model,
            loaded.compression,
            config.exactness,
            config.method,
            lines.append,
            config.compile,
            config.own_text,
            exits=loaded.exits,
        )
    except MissingExtraError as error:
        if config.policy != "auto":
            raise
        return Prepared(loaded, plain, plain, "plain", arguments, f"plain decoding: {error}")
    decoder = SpecBoundDecoder(plain.model, policy, loaded.compression, **settings)
    return Prepared(loaded, plain, decoder, config.method, arguments, "; ".join(lines))


def text_streamer(loaded: LoadedModel) -> TextStreamer:
    """Prints new text as it comes."""
    return TextStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)


def _decode(
    decoder: SpecBoundDecoder, input_ids: Tensor, arguments: dict[str, Any], streamer: TextStreamer | None = None
) -> _Decoded:
    output = decoder.decode([input_ids], streamer=streamer, **arguments)
    return _Decoded(output.sequences[0, input_ids.shape[1] :].tolist(), output.stats)


def _compared(
    row: Row, decoded: _Decoded, reference: _Decoded, prepared: Prepared, input_ids: Tensor
) -> tuple[list[Row], str]:
    """Both rows, and where the outputs first differ; a speedup where they are equal and promised to be."""
    plain, exactness = prepared.plain, prepared.decoder.exactness
    plain_row = replace(reference.row("plain", plain), speedup=1.0, outputs_equal=True)
    if decoded.tokens == reference.tokens:
        is_promised = row.compression == "none" or exactness == "bitwise"
        speedup = row.tokens_per_second / plain_row.tokens_per_second if is_promised else math.nan
        return [replace(row, outputs_equal=True, speedup=speedup), plain_row], ""
    request = request_of(plain, input_ids, prepared.arguments)
    difference = find_difference(
        row.method, "the prompt", plain.model, request, reference.tokens, decoded.tokens, exactness
    )
    assert difference is not None
    row = replace(row, outputs_equal=False, num_near_ties=int(difference.is_near_tie))
    return [row, plain_row], difference.describe()
