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
    show(Cells("", (*texts, *counts), rows, len(texts)), notes=result.notes)
