"""`specbound train-exits`: parse, train, print."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from specbound.cli.edge import hand_over, say, set_up
from specbound.cli.parsing import parse_config
from specbound_train.exits.config import TrainExitsConfig


@dataclass(frozen=True, slots=True)
class TrainExitsCommand(TrainExitsConfig):
    """Trains exits for a frozen model, on text that it wrote itself: small modules that let shallow layers draft. No
    parameter of the model is changed."""

    push_to_hub: str | None = None
    """Put the exits with their model card on the Hugging Face Hub under this name, such as user/exits."""
    json: str | None = None
    """File for the agreement as JSON; - is standard output, where the text is left out."""


def run(argv: Sequence[str]) -> None:
    config = parse_config(TrainExitsCommand, "train-exits", argv)
    set_up(config)
    from pathlib import Path

    from specbound.exits.hub import push_exits
    from specbound.models.hub import check_push
    from specbound_train.exits.train import train_exits

    if config.push_to_hub is not None:
        check_push(config.push_to_hub)
    summary = train_exits(config, say)
    hand_over(config.json, lambda: print(summary), [], {"name": config.model}, exits=asdict(summary))
    if config.push_to_hub is not None:
        say(f"pushed: {push_exits(Path(summary.out), config.push_to_hub)}")
