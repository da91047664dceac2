"""SpecKV's predictor fitted again: its published figures on its own files, where they are at hand."""

from pathlib import Path

import pytest

from specbound_train.speckv import analyse

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "speckv"
STEPS, CLOCK = FOLDER / "phase2_step_results.csv", FOLDER / "phase2_experiment_results.csv"


@pytest.mark.skipif(not CLOCK.exists(), reason="SpecKV's files are not at hand")
def test_published_table_and_what_the_clock_says() -> None:
    analysis = analyse(str(STEPS), str(CLOCK), num_folds=2)
    overall = {score.policy: round(score.overall, 2) for score in analysis.scores}
    assert (overall["fixed 4"], overall["fixed, longest"], overall["speckv"]) == (3.73, 5.81, 5.82)
    assert overall["fastest by task"] == 4.07
    assert round(analysis.test_correlation, 3) == 0.685 and round(analysis.test_mse, 4) == 0.0896
    assert analysis.share_of_longest > 0.9
    speeds = {(each.level, each.length): each.tokens_per_second for each in analysis.fixed}
    change = [round(speeds[level, 8] / speeds[level, 4] - 1, 3) for level in ("fp16", "int8", "nf4")]  # type: ignore[operator]
    assert change == [-0.134, 0.107, -0.063]
    itself, before, alone = (each.by_prompt_later for each in analysis.knowledge)
    assert itself is not None and before is not None and alone is not None
    assert itself > before + 0.1 > alone + 0.2


def synthetic(path: Path) -> Path:
    """Steps whose acceptance follows the confidence of the step itself: 4 prompts x 3 levels x 2 lengths."""
    header = "compression,gamma,task,step,accepted,acceptance_rate,tokens_produced,mean_draft_entropy,"
    lines = [header + "mean_draft_confidence,max_draft_entropy,min_draft_confidence"]
    for run, (level, length) in enumerate((x, n) for _ in range(4) for x in ("fp16", "int8", "nf4") for n in (2, 4)):
        for step in range(8):
            accepted = (run + 3 * step) % (length + 1)
            share = accepted / length
            lines.append(f"{level},{length},code,{step},{accepted},{share},{accepted + 1},0.5,{share},1.0,{share}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_without_the_clock_everything_else_is_there(tmp_path: Path) -> None:
    analysis = analyse(str(synthetic(tmp_path / "steps.csv")), num_folds=2)
    assert [score.policy for score in analysis.scores] == ["fixed 2", "fixed, longest", "speckv"]
    fixed, longest, speckv = (score.overall for score in analysis.scores)
    assert speckv >= max(fixed, longest)  # it takes the best by its own predictor
    assert all(each.tokens_per_second is None for each in analysis.fixed)
    itself, _, alone = analysis.knowledge
    assert itself.by_row > 0.8 > alone.by_row and itself.by_prompt is None
