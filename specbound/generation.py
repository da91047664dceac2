"""One prompt, one model, perhaps a controller: what `specbound generate` does. Knows no command line."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TextStreamer

from specbound.assets import demo_controller_dir
from specbound.config import GenerateConfig
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.request import greedy_twin
from specbound.decoding.stats import DecodeStats
from specbound.fingerprint import model_fingerprint
from specbound.loading import load_model
from specbound.local_costs import choose_costs
from specbound.measure import TimedPrompt, Timing, find_differences
from specbound.report import Row, model_info
from specbound_controller.controller import Controller

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
    """Which cost table the controller used, in words; empty without a controller."""

    @property
    def is_trustworthy(self) -> bool:
        """No difference was found but one at a verified near-tie."""
        return not self.difference or self.rows[0].num_near_ties > 0


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
    greedy = greedy_twin(loaded.model)
    plain = SpecBoundDecoder(greedy, compression=loaded.compression, record_steps=False)
    decoder, method, costs_used = plain, "plain", ""
    if controller is not None:
        controller.check_model(model_fingerprint(loaded.model), plain.adapter.num_layers)
        costs, costs_used = choose_costs(config.costs, controller, loaded)
        policy = controller.policy(costs, loaded.compression)
        decoder = SpecBoundDecoder(greedy, policy=policy, compression=loaded.compression, record_steps=False)
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
        return Generation(text, [row], model, costs=costs_used)
    reference = _decode(plain, input_ids, config.max_new_tokens)
    rows, difference = _compared(row, decoded, reference, plain, input_ids)
    return Generation(text, rows, model, difference, costs_used)


def _decode(
    decoder: SpecBoundDecoder, input_ids: Tensor, max_new_tokens: int, streamer: TextStreamer | None = None
) -> _Decoded:
    output = decoder.decode([input_ids], max_new_tokens=max_new_tokens, streamer=streamer)
    return _Decoded(output.sequences[0, input_ids.shape[1] :].tolist(), output.stats)


def _compared(
    row: Row, decoded: _Decoded, reference: _Decoded, plain: SpecBoundDecoder, input_ids: Tensor
) -> tuple[list[Row], str]:
    """Both rows, and where the outputs first differ; a speedup where they are equal and promised to be (fp32)."""
    plain_row = replace(reference.row("plain", row.compression), speedup=1.0, outputs_equal=True)
    if decoded.tokens == reference.tokens:
        is_promised = row.compression == "none"
        speedup = row.tokens_per_second / plain_row.tokens_per_second if is_promised else math.nan
        return [replace(row, outputs_equal=True, speedup=speedup), plain_row], ""
    timings = {"plain": [Timing(tokens=reference.tokens)], row.method: [Timing(tokens=decoded.tokens)]}
    prompts = [TimedPrompt("the prompt", "all", input_ids, len(reference.tokens))]
    difference = find_differences(timings, prompts, plain.adapter)[0]
    row = replace(row, outputs_equal=False, num_near_ties=int(difference.is_near_tie))
    return [row, plain_row], difference.describe()


def load_controller(name: str) -> Controller | None:
    """`demo`, a folder, or `none`. Raises InputError where the folder holds no controller."""
    if name == "none":
        return None
    return Controller.load(demo_controller_dir() if name == "demo" else Path(name).expanduser())
