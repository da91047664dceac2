"""Live draft trees as HTML: figures, steps drawn as trees, text coloured by source. Every text from outside is escaped.

Of the page around it this module knows the style alone.
"""

import html
from collections.abc import Sequence

from specbound_controller.figures import number
from specbound_profiling.report.trees import FULL_MODEL, DrawnStep, NodeGroup, SourcedText, TreeView

COLOURS = {
    "context": "#8ecf9b",
    "own_text": "#f2c063",
    "recycled": "#9db7e8",
    "bigrams": "#d9a6dc",
    "exit": "#f0a08c",
    "earlier": "#b9d36c",
    FULL_MODEL: "#eeeeee",
}
_OTHER = "#cccccc"
_STEP_X, _STEP_Y, _MARGIN = 110, 26, 24


def tree_section(view: TreeView) -> str:
    """All that is shown of one policy."""
    sources = [*view.sources, FULL_MODEL]
    legend = "".join(
        f'<span><span class="swatch" style="background:{_colour(name)}"></span>{_text(name)}</span>' for name in sources
    )
    parts = [
        f"<h3>Draft trees of {_text(view.policy)}</h3>",
        '<p class="note">Judged are nodes whose parent was right. Score: the chance of being right that was expected '
        "of them, on average.</p>",
        _table(view.groups),
        f'<div class="legend">{legend}</div>',
        '<p class="note">Of some prompts the step with the most accepted nodes: thick lines and filled nodes were '
        "accepted; colours say what proposed each node. Only accepted tokens are in the log.</p>",
        *map(_drawing, view.steps),
    ]
    if view.texts:
        parts.append('<p class="note">Where each token came from.</p>')
    return "\n".join([*parts, *map(_coloured, view.texts)])


def _table(groups: Sequence[NodeGroup]) -> str:
    rows, last = [], ""
    for group in groups:
        kind, last = ("" if group.kind == last else group.kind), group.kind
        cells = [f"{group.num_judged:,}", number(group.acceptance, 3), number(group.score, 3)]
        figures = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        rows.append(f'<tr><td class="text">{kind}</td><td class="text">{_text(group.name)}</td>{figures}</tr>')
    head = '<th class="text">by</th><th class="text"></th><th>judged</th><th>accepted</th><th>score</th>'
    body = "".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _drawing(step: DrawnStep) -> str:
    record = step.record
    parents = (-1, *record.parents)
    depths, heights = _layout(parents)
    width = _MARGIN * 2 + _STEP_X * (max(depths) + 1)
    height = _MARGIN * 2 + _STEP_Y * int(max(heights))
    at = [(_MARGIN + _STEP_X * d, _MARGIN + _STEP_Y * h) for d, h in zip(depths, heights, strict=True)]
    right = {0, *record.path}
    lines, nodes = [], []
    for node, (x, y) in enumerate(at):
        is_right = node in right
        if node:
            from_x, from_y = at[parents[node]]
            line = f'<line x1="{from_x}" y1="{from_y:g}" x2="{x}" y2="{y:g}" stroke="#777"'
            lines.append(f'{line} stroke-width="{3 if is_right else 0.8}"/>')
        source = record.sources[node - 1] if node else FULL_MODEL
        said = f"{source}, score {record.scores[node - 1]:.3f}" if node else "last committed token"
        fill = _colour(source) if is_right else "#fff"
        nodes.append(
            f'<circle cx="{x}" cy="{y:g}" r="6" fill="{fill}" stroke="{_colour(source)}" stroke-width="3">'
            f"<title>{_text(said)}</title></circle>"
        )
        label = step.labels.get(node, "").replace("\n", "↵")
        if label:
            nodes.append(f'<text x="{x + 10}" y="{y - 6:g}" font-size="11">{_text(label)}</text>')
    title = f"{_text(step.prompt_id)}, step {step.step}: {record.num_accepted} of {record.num_drafted} nodes accepted"
    return (
        f'<p class="note">{title}</p><div class="scroll"><svg width="{width}" height="{height}" role="img">'
        f"{''.join(lines)}{''.join(nodes)}</svg></div>"
    )


def _layout(parents: Sequence[int]) -> tuple[list[int], list[float]]:
    """Depth and height of every node: leaves one below the other, parents in the middle of their children."""
    children: dict[int, list[int]] = {}
    depths = [0] * len(parents)
    for node, parent in enumerate(parents[1:], start=1):
        children.setdefault(parent, []).append(node)
        depths[node] = depths[parent] + 1
    heights, order, num_leaves = [0.0] * len(parents), [0], 0
    while order:
        node = order.pop()
        if node in children:
            order += reversed(children[node])
        else:
            heights[node] = float(num_leaves)
            num_leaves += 1
    for node in sorted(children, reverse=True):  # children have larger numbers
        heights[node] = sum(heights[child] for child in children[node]) / len(children[node])
    return depths, heights


def _coloured(text: SourcedText) -> str:
    spans = "".join(
        f'<span style="background:{_colour(source)}" title="{_text(source)}">{_text(_shown(token))}</span>'
        for token, source in text.tokens
    )
    return f'<p class="note">{_text(text.prompt_id)}</p><div class="text-view">{spans}</div>'


def _shown(token: str) -> str:
    return token.replace("\n", "↵\n") or "∅"


def _colour(source: str) -> str:
    return COLOURS.get(source, _OTHER)


def _text(value: object) -> str:
    return html.escape(str(value))
