"""`specbound verify`: parse, decode both ways, print a table and every difference."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import parse_config
from specbound.evaluation.verify_config import VerifyConfig

if TYPE_CHECKING:
    from specbound.evaluation.verify import Verification


def run(argv: Sequence[str]) -> int:
    config = parse_config(VerifyConfig, "verify", argv)
    set_up(config)
    from specbound.evaluation.verify import verify

    result = verify(config, say)
    hand_over(
        config.json,
        lambda: _print(result),
        result.rows,
        result.model,
        sampling=config.generate_arguments(),
        differences=result.differences(),
    )
    return 1 if result.num_bugs else 0


def _print(result: "Verification") -> None:
    from specbound.results.tables import Cells

    texts = ("compression", "policy", "exactness")
    counts = ("prompts", "tokens", "drafted", "differing\nprompts", "near-ties", "bugs")
    rows = []
    for each in result.comparisons:
        figures = (each.num_prompts, each.num_tokens, each.stats.num_drafted)
        verdicts = (len(each.differences), each.num_near_ties, each.num_bugs)
        rows.append((each.compression, each.policy, each.exactness, *map(str, (*figures, *verdicts))))
    show(verdict(result), Cells("", (*texts, *counts), rows, len(texts)), notes=result.notes)


def verdict(result: "Verification") -> str:
    """The answer: whether outputs are equal, over how much."""
    num_tokens = sum(comparison.num_tokens for comparison in result.comparisons)
    num_drafted = sum(comparison.stats.num_drafted for comparison in result.comparisons)
    amount = f"{len(result.comparisons)} policies and levels, {num_tokens} tokens, {num_drafted} of them drafted"
    if result.num_bugs:
        return f"NOT EQUAL: {result.num_bugs} outputs differ from plain decoding's, and rounding does not explain it."
    num_ties = sum(comparison.num_near_ties for comparison in result.comparisons)
    if num_ties:
        return f"Equal but for {num_ties} near-ties within rounding: {amount}."
    idle = "" if num_drafted else " Nothing was drafted, so nothing was tried."
    return f"Equal: every output is plain decoding's, token by token ({amount}).{idle}"
