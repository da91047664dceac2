"""The report as one HTML page that needs nothing else: style, script, plots and data stand inside it.

Knows no log and no model; every text from outside is escaped.
"""

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from specbound_controller.figures import number, share
from specbound_controller.ratio import ratio
from specbound_profiling.report.records import SCORE_NAMES, ExitCalibration, LevelCalibration, LiveDrafts
from specbound_profiling.report.tokens import LevelView, ViewedPrompt
from specbound_profiling.report.tree_page import tree_section
from specbound_profiling.report.trees import TreeView

NO_EXIT_COLOUR = "#f3c6c0"
_SHALLOW, _DEEP = (231, 245, 205), (120, 170, 215)


@dataclass(frozen=True, slots=True)
class LevelSection:
    """What the page shows of one compression level."""

    calibration: LevelCalibration
    view: LevelView | None
    """None leaves the token view out."""
    plots: Mapping[str, bytes]
    """Caption -> PNG file."""
    trees: Sequence[TreeView] = ()
    """Live steps of policies that draft trees."""


def build_page(facts: Mapping[str, str], sections: Sequence[LevelSection], overview: bytes | None) -> str:
    """The whole page.

    Args:
        facts: name -> value, for the head of the page.
        overview: plot of the levels side by side; None where there is one level only.
    """
    folder = Path(__file__).parent
    style, script, intro = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "intro.html")
    )
    is_viewed = any(section.view is not None for section in sections)
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>specbound report</title><style>\n{style}</style></head><body>",
        "<h1>How far each layer can be trusted</h1>",
        f'<p class="note">{" · ".join(f"{_text(k)}: {_text(v)}" for k, v in facts.items())}</p>',
        intro,
        *([] if overview is None else [_overview(sections, overview)]),
        *(_section(index, section) for index, section in enumerate(sections)),
    ]
    if is_viewed:
        parts += ['<div id="details"></div>', _token_data(sections), f"<script>\n{script}</script>"]
    return "\n".join([*parts, "</body></html>\n"])


def _text(value: object) -> str:
    return html.escape(str(value))


def _image(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<h3>{_text(caption)}</h3>\n<img alt="{_text(caption)}" src="data:image/png;base64,{data}">'


def _overview(sections: Sequence[LevelSection], plot: bytes) -> str:
    rows = []
    for section in sections:
        level = section.calibration
        exits = level.of_task("all")
        means = [sum(each.measures[name].ece for each in exits) / len(exits) for name in SCORE_NAMES]
        acceptance = sum(each.acceptance for each in exits) / len(exits)
        cells = [_cell(level.compression, "text"), _cell(f"{level.likely_alpha:.2f}"), _cell(number(acceptance, 3))]
        rows.append([*cells, *_marked(means, math.nan)])
    head = ["compression", "likely α", "accepted", *SCORE_NAMES]
    groups = [("", 3), ("ECE, mean over exits", len(SCORE_NAMES))]
    return "<h2>Compression levels</h2>\n" + _table(groups, head, rows) + _image(plot, "Acceptance and calibration")


def _section(index: int, section: LevelSection) -> str:
    level = section.calibration
    parts = [
        f"<h2>Compression: {_text(level.compression)}</h2>",
        f"<p>{_text(level.summary)}</p>",
        _annealing(level),
        "<h3>Every exit</h3>",
        _exits_table(level),
    ]
    parts += [_image(png, caption) for caption, png in section.plots.items()]
    if len(level.tasks) > 1:
        parts.append(f"<details><summary>Kinds of content, figures</summary>{_tasks_table(level)}</details>")
    if level.live:
        parts += ["<h3>Live steps</h3>", _live(level)]
    parts += map(tree_section, section.trees)
    if section.view is not None:
        parts.append(_token_view(index, section.view))
    return "\n".join(parts)


def _annealing(level: LevelCalibration) -> str:
    low, high = level.temperature_range
    text = (
        f"Fitted on {level.num_fitted} prompts, judged on {level.num_judged} others. The most likely α is "
        f"{level.likely_alpha:.2f} of 0 to {level.largest_alpha:.2f}"
    )
    text += "." if level.alpha == level.likely_alpha else f"; annealed is shown at α = {level.alpha:.2f}, as asked for."
    at_edge = level.exits_at_edge
    if at_edge:
        layers = ", ".join(map(str, at_edge))
        text += (
            f" The own temperature of exit {layers} lies at the edge of the log's grid, {low:g} to {high:g} "
            "(marked *): the best one may lie beyond; profile with a wider grid to find it."
        )
    below = [e for e, t in level.own_temperatures.items() if t < 1.0]
    if below or (low >= 1.0 and any(level.own_temperatures[e] <= low for e in at_edge)):
        text += (
            " Where an exit's own temperature is below 1 it is less sure than it could be, and annealing, whose "
            "temperatures are 1 and above, makes that worse."
        )
    return f'<p class="note">{_text(text)}</p>'


def _exits_table(level: LevelCalibration) -> str:
    rows = []
    for each in level.of_task("all"):
        annealed, own = level.annealed_temperatures[each.exit_layer], level.own_temperatures[each.exit_layer]
        temperatures = (f"{annealed:.2f}", f"{own:.2f}" + "*" * (each.exit_layer in level.exits_at_edge))
        head = (each.exit_layer, f"{each.num_rows:,}", number(each.acceptance, 3), number(each.confidence, 3))
        rows.append([*map(_cell, head), *map(_cell, temperatures), *_measure_cells(each)])
    heads = ["exit", "tokens", "accepted", "confidence", "annealed T", "own T", *SCORE_NAMES * 3]
    count = len(SCORE_NAMES)
    return _table([("", 6), ("ECE", count), ("Brier", count), ("AUROC", count)], heads, rows)


def _measure_cells(each: ExitCalibration) -> list[str]:
    measures = [each.measures[name] for name in SCORE_NAMES]
    return [
        *_marked([m.ece for m in measures], min(m.ece for m in measures)),
        *_marked([m.brier for m in measures], min(m.brier for m in measures)),
        *_marked([m.auroc for m in measures], max(m.auroc for m in measures)),
    ]


def _marked(values: Sequence[float], best: float) -> list[str]:
    """Cells of one measure, the best in bold (equal to the digits shown), a line before the first."""
    cells = []
    for index, value in enumerate(values):
        names = ["first"] * (index == 0) + ["best"] * (round(value, 3) == round(best, 3))
        cells.append(_cell(number(value, 3), " ".join(names)))
    return cells


def _tasks_table(level: LevelCalibration) -> str:
    rows = []
    for task in level.tasks:
        for each in level.of_task(task):
            plain, logistic = each.measures["plain"], each.measures["logistic"]
            figures = (each.acceptance, each.confidence, each.entropy_nats, plain.ece, logistic.ece, plain.auroc)
            cells = [_cell(task, "text"), _cell(each.exit_layer), _cell(f"{each.num_rows:,}")]
            rows.append([*cells, *(_cell(number(value, 3)) for value in figures)])
    names = [
        "content",
        "exit",
        "tokens",
        "accepted",
        "confidence",
        "entropy",
        "ECE plain",
        "ECE logistic",
        "AUROC plain",
    ]
    return _table([], names, rows)


def _live(level: LevelCalibration) -> str:
    lines, rows = [], []
    for each in level.live:
        ends = ", ".join(
            f"{reason} {share(ratio(count, each.num_steps))}" for reason, count in each.stop_reasons.items()
        )
        lines.append(
            f"<li>{_text(each.policy)}: {each.num_prompts} prompts, {each.num_steps:,} steps, "
            f"{number(each.tokens_per_step, 2)} tokens each; drafts ended by {_text(ends)}</li>"
        )
        rows.append(_live_cells(each.policy, "all", each.drafts))
        rows += [_live_cells("", str(place), drafts) for place, drafts in enumerate(each.by_place, start=1)]
    names = ["policy", "draft", "tokens", "accepted", "scored", "score", "accepted", "ECE", "Brier", "AUROC"]
    return (
        '<p class="note">What the decoder did: draft tokens whose predecessors in the step were all accepted, with the '
        "score that let them pass. A score that can be trusted is, on average, the share accepted among the scored.</p>"
        f"<ul>{''.join(lines)}</ul>" + _table([("", 2), ("drafts", 2), ("of these, by a score", 6)], names, rows)
    )


def _live_cells(policy: str, place: str, drafts: LiveDrafts) -> list[str]:
    fit = drafts.measures
    figures = (drafts.score, drafts.scored_acceptance, fit.ece, fit.brier, fit.auroc)
    return [
        *(_cell(policy, "text"), _cell(place), _cell(f"{drafts.num_judged:,}", "first"), _number(drafts.acceptance)),
        *(_cell(f"{drafts.num_scored:,}", "first"), *map(_number, figures)),
    ]


def _number(value: float) -> str:
    return _cell(number(value, 3))


def _cell(value: object, name: str = "") -> str:
    return f'<td class="{name}">{_text(value)}</td>' if name else f"<td>{_text(value)}</td>"


def _table(groups: Sequence[tuple[str, int]], names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """groups: headings above the columns' names, with how many columns each spans."""
    spans = "".join(f'<th class="group" colspan="{width}">{_text(name)}</th>' for name, width in groups)
    starts = {sum(width for _, width in groups[:i]) for i in range(1, len(groups))}
    tall = "tall" if groups else ""
    of_text = {i for i, cell in enumerate(rows[0] if rows else ()) if cell.startswith('<td class="text"')}
    heads = []
    for i, name in enumerate(names):
        kind = "first" if i in starts else "text" if i in of_text else ""
        heads.append(f'<th class="{kind}"><span class="{tall if i else ""}">{_text(name)}</span></th>')
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    top = f"<tr>{spans}</tr>" if groups else ""
    return (
        f'<div class="scroll"><table><thead>{top}<tr>{"".join(heads)}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def exit_colour(index: int, count: int) -> str:
    """Light green for the shallowest exit to blue for the deepest."""
    share = index / max(1, count - 1)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(_SHALLOW, _DEEP, strict=True))


def _token_view(level_index: int, view: LevelView) -> str:
    colours = [exit_colour(i, len(view.exit_layers)) for i in range(len(view.exit_layers))]
    swatches = [
        _swatch(colour, f"exit {layer}: {share:.0%}")
        for colour, layer, share in zip(colours, view.exit_layers, view.shares, strict=True)
    ]
    swatches.append(_swatch(NO_EXIT_COLOUR, f"none agrees: {view.share_of_none:.0%}"))
    parts = [
        "<h3>Token view</h3>",
        '<p class="note">The generated text, coloured by the first exit that agrees with the full model; point at a '
        "token for the numbers, click to keep them. Shares are over all prompts of the level.</p>",
        f'<div class="legend">{"".join(swatches)}</div>',
    ]
    for place, prompt in enumerate(view.prompts):
        parts.append(
            f'<p class="note">{_text(prompt.prompt_id)} · {_text(prompt.task)} · {len(prompt.tokens)} tokens</p>'
        )
        parts.append(f'<div class="text-view" data-at="{level_index}.{place}">{_spans(prompt, colours)}</div>')
    return "\n".join(parts)


def _swatch(colour: str, label: str) -> str:
    return f'<span><span class="swatch" style="background:{colour}"></span>{_text(label)}</span>'


def _spans(prompt: ViewedPrompt, colours: Sequence[str]) -> str:
    spans = []
    for position, token in enumerate(prompt.tokens):
        colour = NO_EXIT_COLOUR if token.first_exit is None else colours[token.first_exit]
        shown = token.text.replace("\n", "↵\n") or "∅"
        original = f' data-text="{_text(token.text)}"' if shown != token.text else ""
        spans.append(f'<span data-p="{position}" style="background:{colour}"{original}>{_text(shown)}</span>')
    return "".join(spans)


def _token_data(sections: Sequence[LevelSection]) -> str:
    """What the script shows, as JSON; `<` is escaped, so no text can end the element."""
    levels = []
    for section in sections:
        view = section.view
        prompts = [] if view is None else [_tokens(prompt) for prompt in view.prompts]
        levels.append({"exits": [] if view is None else list(view.exit_layers), "prompts": prompts})
    text = json.dumps(levels, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="token-data">{text}</script>'


def _tokens(prompt: ViewedPrompt) -> list[list[object]]:
    return [
        [
            [round(value, 4) for value in token.full],
            [[text, round(c, 4), round(a, 4), round(h, 4), int(ok)] for text, c, a, h, ok in token.drafts],
        ]
        for token in prompt.tokens
    ]
