"""`specbound sensitivity` and `specbound ablation`: parse, run the study, print its tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from specbound.analysis.studies_config import AblationConfig, SensitivityConfig, StudyConfig
from specbound.cli.edge import hand_over, say, set_up, show
from specbound.cli.parsing import parse_config

if TYPE_CHECKING:
    from specbound.analysis.studies import Study


def sensitivity(argv: Sequence[str]) -> int:
    config = parse_config(SensitivityConfig, "sensitivity", argv)
    set_up(config)
    from specbound.analysis.studies import run_sensitivity

    return _end(config, run_sensitivity(config, say))


def ablation(argv: Sequence[str]) -> int:
    config = parse_config(AblationConfig, "ablation", argv)
    set_up(config)
    from specbound.analysis.studies import run_ablation

    return _end(config, run_ablation(config, say))


def _end(config: StudyConfig, study: "Study") -> int:
    live = [item.to_dict() for item in study.live]
    files = map(str, study.files)
    hand_over(config.json, lambda: show(study.text, *files), study.rows, study.model, points=study.points, live=live)
    return 1 if study.num_bugs else 0
