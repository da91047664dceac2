"""An evaluation's tables in the model card of what was evaluated: a controller or trained exits on the Hub."""

import re
from pathlib import Path

from specbound.evaluation.config import EvaluateConfig
from specbound.evaluation.markdown import to_markdown
from specbound.evaluation.run import EvaluationResult
from specbound.exits.trained import TrainedExits
from specbound.models.controllers import load_controller
from specbound.models.hub import pull_card
from specbound_controller.errors import InputError

BEGIN, END = "<!-- specbound evaluate: begin -->", "<!-- specbound evaluate: end -->"
LIMITS = "## Limits"
"""Heading before which the tables come, where the card has it."""


def card_of_evaluated(config: EvaluateConfig, name: str) -> str:
    """The card of a repository, before the work.

    Raises:
        InputError: there is none, or the repository holds something else than what is going to be evaluated.
    """
    card, checksum = pull_card(name)
    controller = load_controller(config.controller_name)
    exits = None if config.exits is None else TrainedExits.from_pretrained(config.exits)
    evaluated = [each for each in (controller, exits) if each is not None]
    if checksum not in [each.checksum for each in evaluated]:
        raise InputError(
            f"push_to_hub must name the controller or the exits that are evaluated, got {name!r}, which holds others: "
            f"evaluate them with --controller {name} or --exits {name}, or push yours first"
        )
    return card


def with_tables(card: str, result: EvaluationResult, config: EvaluateConfig) -> str:
    """A card with an evaluation's tables and notes, in place of those of an earlier one. Nothing else is changed."""
    tables = re.sub(r"(?m)^#", "##", to_markdown(result)).strip()
    section = f"{BEGIN}\n{_without_folders(tables, config)}\n{END}"
    if BEGIN in card and END in card:
        before, _, rest = card.partition(BEGIN)
        return before + section + rest.partition(END)[2]
    before, heading, after = card.partition(f"\n{LIMITS}\n")
    return f"{before.rstrip()}\n\n{section}\n{heading}{after}"


def _without_folders(text: str, config: EvaluateConfig) -> str:
    """A public text names files of this machine without the folders that they lie in."""
    named = (config.model, config.exits, config.controller, config.prompts, config.tuning_source, config.costs)
    for each in filter(None, (*named, config.policies)):
        path = Path(each).expanduser()
        if path.is_absolute() or path.exists():
            text = text.replace(str(each), path.name)
    return text
