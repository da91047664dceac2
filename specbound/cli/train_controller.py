"""`specbound train-controller`: parse, train, print."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from specbound.cli.edge import hand_over, say, set_up
from specbound.cli.parsing import parse_config
from specbound_controller.settings import in_words
from specbound_train.config import TrainConfig

if TYPE_CHECKING:
    from specbound_train.summary import TrainSummary


@dataclass(frozen=True, slots=True)
class TrainCommand(TrainConfig):
    """Fits a controller on logs that specbound profile wrote: an exit score and a step policy."""

    push_to_hub: str | None = None
    """Put the controller with its model card on the Hugging Face Hub under this name, such as user/controller."""
    json: str | None = None
    """File for the replayed speeds as JSON; - is standard output, where the text is left out."""


FEW_PROMPTS = 24
"""Prompts below which what a training says of itself is not to be trusted."""


def few_prompts(num_prompts: int) -> list[str]:
    """A warning where there are too few, one line."""
    if num_prompts >= FEW_PROMPTS:
        return []
    return [
        f"warning: trained and judged on {num_prompts} prompts; at least {FEW_PROMPTS} are needed, and from 100 on "
        "figures are steady: profile more (--num-prompts)"
    ]


def next_step(summary: "TrainSummary", model: str) -> str:
    """What to do with the controller: one line."""
    played = next((level.played_action for level in summary.levels if level.played_action is not None), None)
    plays_trees = summary.trees is not None and summary.trees.played
    if played is not None and played.width > 0 and not plays_trees:
        return (
            f"next: the fixed setting is as good, static:{played.name} ({in_words(played.name)}); specbound evaluate "
            f"--model {model} --policy best_static,best_tree races it against others by the clock"
        )
    return (
        f"next: specbound evaluate --model {model} --controller {summary.out} --prompts OTHERS measures it; in Python "
        f"SpecBoundDecoder.from_pretrained(model, {summary.out!r})"
    )


def run(argv: Sequence[str]) -> None:
    config = parse_config(TrainCommand, "train-controller", argv)
    set_up(config)
    from specbound.results.report import logged_model
    from specbound.results.rows import modelled_rows
    from specbound_controller.controller import Controller
    from specbound_train.train import train_controller

    if config.push_to_hub is not None:
        from specbound.models.hub import check_push, push_controller

        check_push(config.push_to_hub)
    summary = train_controller(config)
    rows = []
    for level in summary.levels:
        speedups = {
            "best_static": level.best_static_speedup,
            "controller": level.controller_speedup,
            "oracle": level.oracle_speedup,
        }
        plain = level.plain_tokens_per_second
        for row in modelled_rows(level.compression, level.num_prompts, level.num_tokens, plain, speedups):
            if row.method == "controller":
                row = replace(row, tokens_per_step=level.tokens_per_step, acceptance_rate=level.acceptance_rate)
            rows.append(row)
    model = logged_model(Path(config.logs[0]).expanduser())
    lines = [*few_prompts(summary.num_prompts), str(summary), next_step(summary, str(model["name"]))]
    hand_over(config.json, lambda: print("\n".join(lines)), rows, model, training=summary.to_dict())
    if config.push_to_hub is not None:
        say(f"pushed: {push_controller(Controller.load(summary.out), config.push_to_hub)}")
