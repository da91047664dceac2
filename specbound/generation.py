"""One prompt, one model, perhaps a controller: what `specbound generate` does. Knows no command line."""

from dataclasses import dataclass, replace
from pathlib import Path

from specbound_controller.controller import Controller
from transformers import TextStreamer

from specbound.assets import demo_controller_dir
from specbound.config import GenerateConfig
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.stats import DecodeStats
from specbound.fingerprint import model_fingerprint
from specbound.loading import LoadedModel, load_model
from specbound.measure import TimedPrompt, Timing, find_differences
from specbound.report import Row
from specbound_controller.errors import InputError
from specbound_controller.policy import Policy

WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Generation:
    """A continuation and its figures."""

    text: str
    """The new text, special tokens left out."""
    rows: list[Row]
    """The method that was asked for, then plain decoding where it was compared."""
    difference: str = ""
    """Where the outputs first differ, in words; empty where they are equal or were not compared."""


def generate(config: GenerateConfig, prompt: str) -> Generation:
    """Continues the prompt; with `config.compare` plain decoding does it too, after a warm-up of both."""
    loaded = load_model(config.model, config.compression)
    policy = controller_policy(config.controller_name, loaded)
    name = "plain" if policy is None else "controller"
    decoder = SpecBoundDecoder(loaded.model, policy=policy, compression=loaded.compression, record_steps=False)
    input_ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"].to(loaded.model.device)
    if input_ids.shape[1] == 0:
        raise InputError("--prompt must hold at least one token")
    plain = SpecBoundDecoder(loaded.model, compression=loaded.compression, record_steps=False)
    if config.compare:
        for each in (plain, decoder):
            each.generate(input_ids, max_new_tokens=min(WARM_UP_TOKENS, config.max_new_tokens))
    streamer = TextStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True) if config.stream else None
    output = decoder.generate(input_ids, max_new_tokens=config.max_new_tokens, streamer=streamer)
    tokens = output.sequences[0, input_ids.shape[1] :].tolist()
    text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
    row = _row(name, loaded, output.stats)
    if not config.compare:
        return Generation(text, [row])
    reference = plain.generate(input_ids, max_new_tokens=config.max_new_tokens)
    expected = reference.sequences[0, input_ids.shape[1] :].tolist()
    plain_row = replace(_row("plain", loaded, reference.stats), speedup=1.0, outputs_equal=True)
    row = replace(row, outputs_equal=tokens == expected)
    if row.outputs_equal:
        speedup = row.tokens_per_second / plain_row.tokens_per_second
        return Generation(text, [replace(row, speedup=speedup), plain_row])
    timings = {"plain": [Timing(tokens=expected)], name: [Timing(tokens=tokens)]}
    prompts = [TimedPrompt("prompt", "prompt", input_ids, config.max_new_tokens)]
    difference = find_differences(timings, prompts, decoder.adapter)[0]
    row = replace(row, num_near_ties=int(difference.is_near_tie))
    return Generation(text, [row, plain_row], difference.describe())


def controller_policy(name: str, loaded: LoadedModel) -> Policy | None:
    """The policy of a saved controller for this model; None for `none`.

    Raises:
        InputError: the folder holds no controller, or one for another model.
    """
    if name == "none":
        return None
    folder = demo_controller_dir() if name == "demo" else Path(name).expanduser()
    controller = Controller.load(folder)
    controller.check_model(model_fingerprint(loaded.model), loaded.model.config.num_hidden_layers)
    return controller.policy(controller.costs_for(loaded.compression), loaded.compression)


def _row(name: str, loaded: LoadedModel, stats: DecodeStats) -> Row:
    return Row(
        method=name,
        compression=loaded.compression,
        task="all",
        num_prompts=1,
        num_tokens=stats.num_tokens,
        tokens_per_second=stats.tokens_per_second,
        tokens_per_step=stats.tokens_per_step,
        acceptance_rate=stats.acceptance_rate,
        layer_calls_per_token=stats.layer_calls_per_token,
    )
