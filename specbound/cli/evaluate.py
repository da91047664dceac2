"""`specbound evaluate`: parse, measure every level, print its tables, write the files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from specbound.cli.edge import say, set_up, show
from specbound.cli.parsing import parse_config
from specbound.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from specbound.evaluation.run import EvaluationResult


@dataclass(frozen=True, slots=True)
class EvaluateCommand(EvaluateConfig):
    """Measures what decoding with a controller is worth: against plain decoding, transformers' generate, the best fixed
    setting, other systems' rules and the clairvoyant limit, on prompts that nothing was chosen on."""

    push_to_hub: str | None = None
    """Put the tables into the model card of the evaluated controller or exits, which the Hub holds under this
    name, such as user/controller."""


REFERENCES = {"plain": "plain decoding", "transformers": "transformers' generate"}


def run(argv: Sequence[str]) -> int:
    config = parse_config(EvaluateCommand, "evaluate", argv)
    set_up(config)
    card = _card(config)
    from specbound.evaluation.run import evaluate, to_report
    from specbound.results.files import make_folder
    from specbound.results.report import write_report

    folder = None if config.out is None else make_folder(config.out, has_plots=True)
    finished: list[EvaluationResult] = []

    def keep(result: "EvaluationResult") -> None:
        """A level is done: writes the files again, and prints it."""
        finished[:] = [result]
        if folder is not None:
            from specbound.evaluation.report import write_files

            write_files(result, folder)
        if config.json not in (None, "-"):
            write_report(to_report(result), str(config.json))
        if config.json != "-":
            _print_level(result, config.by_kind)

    try:
        result = evaluate(config, say, keep)
    finally:
        if config.json == "-" and finished:
            write_report(to_report(finished[0]), "-")
    if card is not None and config.push_to_hub is not None:
        _push(card, result, config, config.push_to_hub)
    return 0 if result.is_trustworthy else 1


def _card(config: EvaluateCommand) -> str | None:
    """The card that the tables are to stand in, fetched before the work; None where none was asked for."""
    if config.push_to_hub is None:
        return None
    from specbound.evaluation.card import card_of_evaluated
    from specbound.models.hub import check_push

    check_push(config.push_to_hub)
    return card_of_evaluated(config, config.push_to_hub)


def _push(card: str, result: "EvaluationResult", config: EvaluateCommand, name: str) -> None:
    """Puts the tables into the card, unless they cannot be trusted."""
    from specbound.evaluation.card import with_tables
    from specbound.models.hub import push_card

    if not result.is_trustworthy:
        say("the model card is left as it was: the notes say why these figures are none to publish")
        return
    say(f"pushed: {push_card(with_tables(card, result, config), name)}")


def _print_level(result: "EvaluationResult", by_kind: bool) -> None:
    """The tables and notes of the newest level, and before the first one what holds for all."""
    from specbound.evaluation.run import level_notes
    from specbound.evaluation.tables import comparison_table, gain_table, heading, speed_table
    from specbound.results.headline import headline
    from specbound.results.tables import kinds_note

    level = result.levels[-1]
    notes = result.notes if len(result.levels) == 1 else []
    tables = [speed_table(level, has_intervals=False, by_kind=by_kind), gain_table(level)]
    if level.comparisons:
        tables.append(comparison_table(each for each in level.comparisons if each.task == "all"))
    answer = headline(level.rows, REFERENCES[level.evaluation.reference]) or "No speedup is shown; the notes say why."
    notes = [*kinds_note(level.rows, by_kind), *notes]
    show(f"\n{answer}", heading(level), *tables, "", notes=(*notes, *level_notes(level)))
