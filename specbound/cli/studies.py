"""`specbound sensitivity` and `specbound ablation`: parse, run the study, print its tables."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.analysis.studies_config import AblationConfig, SensitivityConfig, StudyConfig
from specbound.cli.parsing import parse_config

if TYPE_CHECKING:
    from specbound.analysis.studies import Study


def sensitivity(argv: Sequence[str]) -> int:
    config = parse_config(SensitivityConfig, "sensitivity", argv)
    _set_up(config)
    from specbound.analysis.studies import run_sensitivity

    return _end(config, run_sensitivity(config, _say))


def ablation(argv: Sequence[str]) -> int:
    config = parse_config(AblationConfig, "ablation", argv)
    _set_up(config)
    from specbound.analysis.studies import run_ablation

    return _end(config, run_ablation(config, _say))


def _set_up(config: StudyConfig) -> None:
    from specbound.cli.edge import set_up
    from specbound.results.report import check_destination

    check_destination(config.json)
    set_up(config.threads)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _end(config: StudyConfig, study: "Study") -> int:
    from specbound.results.report import build_report, write_report

    if config.json != "-":
        print(study.text)
        print("\n".join(map(str, study.files)))
    if config.json is not None:
        live = [item.to_dict() for item in study.live]
        write_report(build_report(study.rows, study.model, points=study.points, live=live), config.json)
    return 1 if study.num_bugs else 0
