"""One prompt, one model, perhaps a controller: what `specbound generate` does. Knows no command line."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TextStreamer

from specbound.assets import demo_controller_dir
from specbound.config import GenerateConfig
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.stats import DecodeStats
from specbound.fingerprint import model_fingerprint
from specbound.loading import load_model
from specbound.measure import TimedPrompt, Timing, find_differences
from specbound.report import Row, model_info
from specbound_controller.controller import Controller
from specbound_controller.costs import CostTable
from specbound_controller.errors import InputError
from specbound_profiling.machine import machine_fingerprint

logger = logging.getLogger(__name__)
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


@dataclass(frozen=True, slots=True)
class _Decoded:
    tokens: list[int]
    """New tokens."""
    stats: DecodeStats

    def row(self, method: str, compression: str) -> Row:
        return Row(
            method=method,
            compression=compression,
            task="all",
            num_prompts=1,
            num_tokens=self.stats.num_tokens,
            tokens_per_second=self.stats.tokens_per_second,
            tokens_per_step=self.stats.tokens_per_step,
            acceptance_rate=self.stats.acceptance_rate,
            layer_calls_per_token=self.stats.layer_calls_per_token,
        )


def generate(config: GenerateConfig, prompt: str) -> Generation:
    """Continues the prompt; with `config.compare` plain decoding does it too, after a warm-up of both."""
    controller = load_controller(config.controller_name)
    loaded = load_model(config.model, config.compression)
    plain = SpecBoundDecoder(loaded.model, compression=loaded.compression, record_steps=False)
    decoder, method = plain, "plain"
    if controller is not None:
        controller.check_model(model_fingerprint(loaded.model), plain.adapter.num_layers)
        costs = stored_costs(controller, loaded.compression, loaded.model.device)
        policy = controller.policy(costs, loaded.compression)
        decoder = SpecBoundDecoder(loaded.model, policy=policy, compression=loaded.compression, record_steps=False)
        method = "controller"
    input_ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
    if config.compare:
        for each in (plain, decoder):
            _decode(each, input_ids, min(WARM_UP_TOKENS, config.max_new_tokens))
    streamer = TextStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True) if config.stream else None
    decoded = _decode(decoder, input_ids, config.max_new_tokens, streamer)
    text = loaded.tokenizer.decode(decoded.tokens, skip_special_tokens=True)
    model = model_info(config.model, loaded.model)
    row = decoded.row(method, loaded.compression)
    if not config.compare:
        return Generation(text, [row], model)
    reference = _decode(plain, input_ids, config.max_new_tokens)
    return Generation(text, *_compared(row, decoded, reference, plain, input_ids, model))


def _decode(
    decoder: SpecBoundDecoder, input_ids: Tensor, max_new_tokens: int, streamer: TextStreamer | None = None
) -> _Decoded:
    output = decoder.generate(input_ids, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
    return _Decoded(output.sequences[0, input_ids.shape[1] :].tolist(), output.stats)


def _compared(
    row: Row, decoded: _Decoded, reference: _Decoded, plain: SpecBoundDecoder, input_ids: Tensor, model: dict[str, Any]
) -> tuple[list[Row], dict[str, Any], str]:
    """Both rows, the speedup where the outputs are equal, and otherwise where they first differ."""
    plain_row = replace(reference.row("plain", row.compression), speedup=1.0, outputs_equal=True)
    if decoded.tokens == reference.tokens:
        speedup = row.tokens_per_second / plain_row.tokens_per_second
        return [replace(row, outputs_equal=True, speedup=speedup), plain_row], model, ""
    timings = {"plain": [Timing(tokens=reference.tokens)], row.method: [Timing(tokens=decoded.tokens)]}
    prompts = [TimedPrompt("the prompt", "all", input_ids, len(reference.tokens))]
    difference = find_differences(timings, prompts, plain.adapter)[0]
    row = replace(row, outputs_equal=False, num_near_ties=int(difference.is_near_tie))
    return [row, plain_row], model, difference.describe()


def load_controller(name: str) -> Controller | None:
    """`demo`, a folder, or `none`. Raises InputError where the folder holds no controller."""
    if name == "none":
        return None
    return Controller.load(demo_controller_dir() if name == "demo" else Path(name).expanduser())


def stored_costs(controller: Controller, compression: str, device: torch.device) -> CostTable:
    """The cost table that the controller carries for this level, or for the level that stands in for it.

    One that was measured on another machine is a logged warning: it changes the choices, never the output.
    """
    tables = controller.config.costs
    level = compression if compression in tables else controller.config.compressions[0]
    if level not in tables:
        raise InputError(f"the controller carries no cost table for compression {compression!r}: train it again")
    here = machine_fingerprint(device)
    if tables[level].machine != here:
        logger.warning("the controller's costs are from another machine (%s), not %s", tables[level].machine, here)
    return tables[level]
