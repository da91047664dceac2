"""Live draft trees in the report: what is judged, what is drawn, and where tokens came from."""

import math
import re
from collections.abc import Callable

import pytest

from specbound_controller.records import StepRecord
from specbound_profiling.log.live_steps import LiveSteps
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.report.tree_page import tree_section
from specbound_profiling.report.trees import FULL_MODEL, TreeView, judged_nodes, view_trees

NASTY = "</svg><script>"


def tree_record(context_length: int) -> StepRecord:
    """Five nodes, of which the second child of the root and its first child are right."""
    unread = (math.nan,) * 5
    return StepRecord(
        *(context_length, 5, 2, 3, (0,) * 5, (0.5, 0.25, 0.5, 0.125, 0.5), unread, unread, "width", {6: 4}, {6: 1}, 0),
        sources=("context", "bigrams", "context", "recycled", "bigrams"),
        parents=(0, 0, 2, 2, 1),
        path=(2, 3),
    )


@pytest.fixture
def view(trace_of: Callable[..., PromptTrace]) -> TreeView:
    """Of tokens 10 to 15 after 5 tokens of prompt: a tree, then a plain step."""
    trace = trace_of([[0]] * 6, prompt_id=NASTY)
    plain = StepRecord(9, 0, 0, 1, (), (), (), (), "off", {1: 4}, {1: 1}, 0)
    found = view_trees([LiveSteps(NASTY, "none", "tree5", (tree_record(6), plain))], [trace], 3, None)
    assert found is not None
    return found


def test_nodes_are_judged_whose_parent_was_right() -> None:
    nodes = [
        (node.source, node.rank, node.depth, node.score, node.is_accepted) for node in judged_nodes(tree_record(6))
    ]
    assert nodes == [
        ("context", 1, 1, 0.5, False),
        ("bigrams", 2, 1, 0.25, True),
        ("context", 1, 2, 0.5, True),
        ("recycled", 2, 2, 0.125, False),
    ]


def test_acceptance_by_source_rank_and_depth(view: TreeView) -> None:
    found = {(group.kind, group.name): (group.num_judged, group.acceptance, group.score) for group in view.groups}
    assert found == {
        ("source", "context"): (2, 0.5, 0.5),
        ("source", "bigrams"): (1, 1.0, 0.25),
        ("source", "recycled"): (1, 0.0, 0.125),
        ("rank", "1"): (2, 0.5, 0.5),
        ("rank", "2"): (2, 0.5, 0.1875),
        ("depth", "1"): (2, 0.5, 0.375),
        ("depth", "2"): (2, 0.5, 0.3125),
    }


def test_every_token_has_a_source(view: TreeView) -> None:
    [text] = view.texts
    sources = (FULL_MODEL, "bigrams", "context", FULL_MODEL, FULL_MODEL)
    assert text.tokens == tuple(zip(("10 ", "11 ", "12 ", "13 ", "14 "), sources, strict=True))


def test_a_step_is_drawn_with_what_was_accepted(view: TreeView) -> None:
    page = tree_section(view)
    assert page.count("<circle") == 6 and page.count("<line") == 5
    assert page.count('stroke-width="3"/>') == 2  # lines to the accepted nodes
    assert re.findall(r'font-size="11">(\d+) <', page) == ["10", "11", "12"]
    assert "step 0: 2 of 5 nodes accepted" in page and "recycled, score 0.125" in page
    assert NASTY not in page and "&lt;/svg&gt;" in page


def test_chains_have_no_trees() -> None:
    chain = StepRecord(9, 1, 1, 2, (1,), (0.5,), (0.5,), (1.0,), "width", {1: 2}, {1: 2}, 2)
    assert view_trees([LiveSteps("p", "none", "static", (chain,))], [], 3, None) is None
