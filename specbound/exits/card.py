"""The model card of trained exits: what they are, what they learned from, what they reached. Knows no weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from specbound_controller.fingerprint import exact_part

_HEADER = """---
library_name: specbound
tags:
- speculative-decoding
- early-exit
- specbound
---
"""
_LIMITS = """* They hold for one model, which is checked by fingerprint and depth, at any compression of it.
* They draft; the full model verifies every token, so the output is the model's own, faults included.
* Text unlike what they learned from agrees less. What pays depends on the machine: specbound profile says."""


def exits_card(exit_layers: Sequence[int], config: Mapping[str, Any], num_tokens: int) -> str:
    """The card as Markdown, with the metadata block of the Hugging Face Hub.

    config: what `config.json` holds. num_tokens: of the draft vocabulary.
    """
    shape, training = config["shape"], config["training"]
    rows = {
        "model": training.get("model", "known by its fingerprint only"),
        "fingerprint": f"`{exact_part(str(config['model_fingerprint']))}`",
        "exit layers": f"{', '.join(map(str, exit_layers))} of {config['num_layers']}",
        "module": _module(shape),
        "draft vocabulary": f"{num_tokens:,} of {config['vocab_size']:,} tokens",
        "versions": ", ".join(f"{name} {version}" for name, version in config["versions"].items()) or "–",
    }
    data = {name.replace("_", " "): training[name] for name in training if name not in ("model", "agreement")}
    parts = [
        _HEADER,
        f"# Trained exits for {rows['model']}",
        "Small modules that let shallow layers of a frozen language model draft for it. No parameter of the model is "
        "changed.",
        "    specbound generate --model MODEL --exits THIS --prompt TEXT --compare",
        "## Exits",
        _table(rows),
        "## Training",
        _table(data),
    ]
    if training.get("agreement"):
        parts += ["## Agreement", _AGREEMENT_NOTE, _agreement(training["agreement"])]
    return "\n\n".join([*parts, "## Limits", _LIMITS]) + "\n"


_AGREEMENT_NOTE = (
    "Share of held-out positions where the full model's own token is an exit's first choice, among its first two and "
    "four; `overlap` is the chance that a sampled draft is accepted. The distance is how many tokens back the newest "
    "verified position is; `raw` is the model's own head at that layer."
)


def _module(shape: Mapping[str, Any]) -> str:
    state = ", reads the full model's newest verified state" if shape["reads_state"] else ""
    if shape["kind"] == "low_rank":
        return f"a matrix of rank {shape['rank']}{state}"
    return f"{shape['num_blocks']} gated perceptrons of width {shape['width']}{state}"


def _table(rows: Mapping[str, object]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _agreement(rows: Sequence[Mapping[str, Any]]) -> str:
    names = ("variant", "exit_layer", "distance", "top1", "top2", "top4", "overlap")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in rows:
        cells = (f"{row[name]:.3f}" if isinstance(row[name], float) else str(row[name]) for name in names)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
