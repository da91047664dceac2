"""`specbound replay`: parse, replay, print one table for each compression level and kind of content."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from specbound.analysis.replay_config import ReplayConfig
from specbound.cli import speckv
from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import parse_config
from specbound_controller.figures import change, number, share

if TYPE_CHECKING:
    from specbound.analysis.live import LiveItem
    from specbound.analysis.replay import Replay, ReplayedRow
    from specbound.results.tables import Cells


def run(argv: Sequence[str]) -> int:
    config = parse_config(ReplayConfig, "replay", argv)
    if config.speckv is not None:
        return speckv.run(config)
    set_up(config)
    from specbound.analysis.replay import replay_log

    result = replay_log(config, say)
    live = [item.to_dict() for item in result.live]
    hand_over(
        config.json, lambda: _print(result, config.by_kind), result.rows, result.model, live=live, notes=result.notes
    )
    return 1 if result.num_bugs else 0


def _print(result: "Replay", by_kind: bool) -> None:
    from specbound.results.headline import headline
    from specbound.results.tables import kinds_note

    levels = [(level, list(rows)) for level, rows in groupby(result.rows, key=lambda row: row.compression)]
    answers = [f"{level}: {headline(rows)}" for level, rows in levels if headline(rows)]
    tables = [_level(level, rows, by_kind) for level, rows in levels]
    live = [_live(level, list(items)) for level, items in groupby(result.live, key=lambda item: item.compression)]
    notes = [*kinds_note(result.rows, by_kind), *result.notes]
    show(*answers, *tables, *live, "", notes=notes)


def _level(compression: str, rows: Sequence["ReplayedRow"], by_kind: bool) -> "Cells":
    from specbound.analysis.replay import ReplayedRow
    from specbound.results.rows import columns
    from specbound.results.tables import for_people, narrow, rows_table

    title = f"{compression}, replayed: {rows[-1].num_prompts} prompts, {rows[-1].num_tokens} tokens"
    shown = narrow(columns(ReplayedRow))
    return rows_table(
        title, for_people(rows, by_kind), shown, lambda row: str(row.method).replace("_", " "), what="policy"
    )


def _live(compression: str, items: Sequence["LiveItem"]) -> "Cells":
    from specbound.results.tables import grouped

    def cells(each: "LiveItem") -> tuple[str, ...]:
        figures = (number(each.replayed, 3), number(each.live, 3), change(each.deviation), share(each.tolerance))
        return each.item, *figures, "within" if each.is_within else "outside"

    title = f"{compression}, replayed against live, {max(item.num_prompts for item in items)} prompts"
    headings = ("policy", "figure", "replayed", "live", "deviation", "allowed", "verdict")
    return grouped(title, headings, items, lambda each: str(each.policy).replace("_", " "), cells)
