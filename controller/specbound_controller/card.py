"""The model card of a controller: what it is for, what it was trained on, what it reached, where it ends.

Made from the controller's own config, so that a loaded controller can say the same again. Knows no weights.
"""

from collections.abc import Mapping
from typing import Any

from specbound_controller.config import ControllerConfig
from specbound_controller.fingerprint import exact_part

CARD_FILE = "README.md"
"""Name of the card in a controller's folder."""

_HEADER = """---
library_name: specbound
license: apache-2.0
tags:
- speculative-decoding
- early-exit
- specbound
---
"""


def controller_card(config: ControllerConfig) -> str:
    """The card as Markdown with the metadata block of the Hugging Face Hub. Figures that are not known are left out."""
    summary = config.summary
    model = summary.get("model") or "a model that is known by its fingerprint only"
    levels, exits = _mappings(summary.get("levels")), _mappings(summary.get("exits"))
    parts = [
        _HEADER,
        f"# A specbound controller for {model}",
        "Two tiny perceptrons that say, step by step, how the model's own shallow layers are to draft for it "
        "(self-speculative decoding). It changes the speed of decoding, not the output. It works with this model only.",
        "    specbound generate --model MODEL --controller THIS --prompt TEXT --compare",
        "## Model",
        _table(
            {
                "model": model,
                "fingerprint": f"`{exact_part(config.model_fingerprint)}`",
                "layers": config.num_layers,
                "exit layers": ", ".join(map(str, config.exit_layers)),
                "compression levels": ", ".join(config.compressions)
                + (" (its networks are not told which)" if config.without_compression else ""),
                "actions": len(config.actions),
                "seed of training": config.seed,
                "versions": ", ".join(f"{name} {version}" for name, version in config.versions.items()) or "–",
            }
        ),
        "## Data",
        _table(
            {
                "prompts": f"{summary.get('prompts', '–')} ({summary.get('num_prompts', '–')} prompts)",
                "hash of the prompts": f"`{config.prompts_hash}`",
                "positions": summary.get("num_positions", "–"),
                "steps fitted on": summary.get("num_rows", "–"),
            }
        ),
        "The model wrote its own continuations of these prompts; nothing else was read. The prompts are split: some "
        "fit, the others (validation prompts) judge.",
    ]
    if levels:
        parts += ["## Figures", _LEVELS_NOTE, _levels_table(levels)]
        parts += [_played_line(level) for level in levels if level.get("played_action")]
    if exits:
        parts += [_EXITS_NOTE, _exits_table(exits)]
    return "\n\n".join([*parts, "## Limits", _LIMITS]) + "\n"


_LEVELS_NOTE = (
    "Replayed on the validation prompts with the cost table of the training machine: modelled, not measured, prefill "
    "left out. Speedups are over plain decoding; the interval is that of the controller over the best static setting, "
    "95 % over prompts. The validation prompts also decided whether the step policy is played, so they flatter it a "
    "little."
)
_EXITS_NOTE = "The exit score on the validation prompts (plain confidence in brackets):"
_LIMITS = """* It holds for one model (checked by fingerprint and depth) and the compression levels above; another is
  decided as the first of them, with a warning.
* What pays depends on the machine. Costs are measured again where it runs; the figures above are those of training.
* Prompts unlike those it was trained on may draft worse. A guard falls back to plain decoding where drafting does not
  pay.
* The output is the model's own, so its faults are the model's own."""


def _table(rows: Mapping[str, object]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _levels_table(levels: list[Mapping[str, Any]]) -> str:
    names = {
        "best static": "best_static_speedup",
        "controller": "controller_speedup",
        "step policy": "step_policy_speedup",
        "oracle": "oracle_speedup",
    }
    lines = [
        f"| compression | prompts | plain, tokens/s | {' | '.join(names)} "
        "| controller / best static | tokens per step |",
        "|" + "---|" * (len(names) + 5),
    ]
    for level in levels:
        speedups = " | ".join(_number(level.get(key), 3) for key in names.values())
        interval = f"{_number(level.get('gain_low'), 3)} to {_number(level.get('gain_high'), 3)}"
        lines.append(
            f"| {level.get('name', level.get('compression'))} | {level.get('num_prompts')} | "
            f"{_number(level.get('plain_tokens_per_second'), 1)} | {speedups} | {interval} | "
            f"{_number(level.get('tokens_per_step'), 2)} |"
        )
    return "\n".join(lines)


def _played_line(level: Mapping[str, Any]) -> str:
    return (
        f"At {level.get('name', level.get('compression'))} the step policy was not faster than the best static "
        "setting, so the controller plays one setting at every step."
    )


def _exits_table(exits: list[Mapping[str, Any]]) -> str:
    lines = ["| exit layer | accepted | ECE | Brier | AUROC | drafts |", "|" + "---|" * 6]
    for fit in exits:
        pairs = (
            f"{_number(fit.get(name), 3)} ({_number(fit.get(f'confidence_{name}'), 3)})"
            for name in ("ece", "brier", "auroc")
        )
        accepted = _number(fit.get("acceptance"), 2)
        lines.append(f"| {fit.get('exit_layer')} | {accepted} | {' | '.join(pairs)} | {fit.get('num_rows')} |")
    return "\n".join(lines)


def _mappings(values: object) -> list[Mapping[str, Any]]:
    """A list of objects as it should be; what is none is left out, since a summary may hold anything."""
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, list | tuple) else []


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"
