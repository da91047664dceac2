"""What live steps of draft trees show: which nodes were right, by source, rank and depth; some steps node by node; and
where each token of a text came from. Knows no HTML.

Judged are the nodes whose parent is the last committed token or an accepted node: only of these the full model says
whether they are right.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from specbound_controller.ratio import ratio
from specbound_controller.records import StepRecord
from specbound_profiling.log.live_steps import LiveSteps
from specbound_profiling.log.trace import PromptTrace
from specbound_profiling.report.tokens import WINDOW, Decode, token_text

FULL_MODEL = "full model"
"""Where tokens come from that no draft held."""
MOST_STEPS = 6
"""Steps that are drawn."""


@dataclass(frozen=True, slots=True)
class JudgedNode:
    """A node that the full model says something of."""

    source: str
    rank: int
    """Among the children of its parent, from 1, the likeliest first."""
    depth: int
    """From 1."""
    score: float
    """Expected chance of being right."""
    is_accepted: bool


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Judged nodes that have something in common."""

    kind: str
    """`source`, `rank` or `depth`."""
    name: str
    num_judged: int
    num_accepted: int
    score: float
    """Mean."""

    @property
    def acceptance(self) -> float:
        return ratio(self.num_accepted, self.num_judged)


@dataclass(frozen=True, slots=True)
class DrawnStep:
    """One step as a tree."""

    prompt_id: str
    step: int
    record: StepRecord
    labels: Mapping[int, str]
    """Text of the root (0) and of accepted nodes; others are not in the log."""


@dataclass(frozen=True, slots=True)
class SourcedText:
    """One prompt's text, with where each token came from."""

    prompt_id: str
    tokens: tuple[tuple[str, str], ...]
    """Text and source."""


@dataclass(frozen=True, slots=True)
class TreeView:
    """The live trees of one policy at one level."""

    policy: str
    groups: tuple[NodeGroup, ...]
    steps: tuple[DrawnStep, ...]
    texts: tuple[SourcedText, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Of the nodes, those judged most first."""
        return tuple(group.name for group in self.groups if group.kind == "source")


def view_trees(
    runs: Sequence[LiveSteps], traces: Sequence[PromptTrace], num_texts: int, decode: Decode | None
) -> TreeView | None:
    """What the live steps of a policy show; None where it drafted no tree.

    Args:
        traces: of the same level; prompts that are not among them have no text.
        num_texts: texts to show at most.
        decode: token ids -> text; None shows the ids.
    """
    nodes = [node for run in runs for record in run.records for node in judged_nodes(record)]
    if not nodes:
        return None
    known = {trace.prompt_id: trace for trace in traces}
    texts = [_sourced(run, known[run.prompt_id], decode) for run in runs if run.prompt_id in known][:num_texts]
    return TreeView(runs[0].policy, tuple(_groups(nodes)), tuple(_drawn(runs, known, decode)), tuple(texts))


def judged_nodes(record: StepRecord) -> Iterator[JudgedNode]:
    """Of one step; none of a chain."""
    right, depths, ranks = {0, *record.path}, [0], dict[int, int]()
    if not record.sources:
        return
    columns = zip(record.parents, record.sources, record.scores, strict=True)
    for node, (parent, source, score) in enumerate(columns, start=1):
        depths.append(depths[parent] + 1)
        ranks[parent] = ranks.get(parent, 0) + 1
        if parent in right:
            yield JudgedNode(source, ranks[parent], depths[node], score, node in right)


def _groups(nodes: Sequence[JudgedNode]) -> Iterator[NodeGroup]:
    kinds: dict[str, Callable[[JudgedNode], str | int]] = {
        "source": lambda node: node.source,
        "rank": lambda node: node.rank,
        "depth": lambda node: node.depth,
    }
    for kind, key in kinds.items():
        members: dict[str | int, list[JudgedNode]] = {}
        for node in nodes:
            members.setdefault(key(node), []).append(node)
        names = sorted(members, key=lambda name: -len(members[name]) if kind == "source" else int(name))
        for name in names:
            own = members[name]
            accepted = sum(node.is_accepted for node in own)
            yield NodeGroup(kind, str(name), len(own), accepted, float(np.mean([node.score for node in own])))


def _drawn(runs: Sequence[LiveSteps], traces: Mapping[str, PromptTrace], decode: Decode | None) -> Iterator[DrawnStep]:
    """Of each prompt in turn the step with the most accepted nodes, as long as there are few enough."""
    for run in runs[:MOST_STEPS]:
        step = max(range(len(run.records)), key=lambda index: (len(run.records[index].path), -index))
        record = run.records[step]
        if record.sources:
            yield DrawnStep(run.prompt_id, step, record, _labels(record, traces.get(run.prompt_id), decode))


def _labels(record: StepRecord, trace: PromptTrace | None, decode: Decode | None) -> dict[int, str]:
    if trace is None:
        return {}
    start = record.context_length - trace.prompt_length
    places = {0: start - 1} | {node: start + place for place, node in enumerate(record.path)}
    return {node: _text(trace, place, decode) for node, place in places.items() if 0 <= place < trace.num_positions}


def _sourced(run: LiveSteps, trace: PromptTrace, decode: Decode | None) -> SourcedText:
    sources = [FULL_MODEL]
    for record in run.records:
        sources += [*record.accepted_sources, FULL_MODEL][: record.num_emitted]
    texts = [_text(trace, place, decode) for place in range(trace.num_positions)]
    return SourcedText(run.prompt_id, tuple(zip(texts, sources, strict=False)))


def _text(trace: PromptTrace, place: int, decode: Decode | None) -> str:
    before = trace.tokens[max(0, place - WINDOW) : place].tolist()
    return token_text(before, int(trace.tokens[place]), decode)
