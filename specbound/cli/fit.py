"""`specbound fit`: parse, run every stage, print the answer."""

from collections.abc import Sequence

from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import parse_config
from specbound.fit.config import FitConfig


def run(argv: Sequence[str]) -> None:
    config = parse_config(FitConfig, "fit", argv)
    set_up(config)
    from specbound.fit.card import exits_words
    from specbound.fit.run import fit

    result = fit(config, say)
    option, argument = exits_words(config, result.answer.policy)
    usage = (
        f"next: specbound generate --model {config.model} --policy {config.out}{option} --prompt TEXT --compare; in "
        f'Python SpecBoundDecoder.from_pretrained(model, "{config.out}"{argument})'
    )
    minutes = f"all is in {config.out}, its README.md says how it was found; {result.seconds / 60:.1f} minutes"
    values = {"answer": str(result.answer), "policy": result.answer.policy, "fit": result.values}
    hand_over(
        config.json, lambda: show(str(result.answer), notes=(minutes, usage)), result.rows, result.model, **values
    )
