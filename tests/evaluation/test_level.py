"""One level, measured on random models: which methods run, on what, and what may be claimed."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from specbound.evaluation.level import LevelEvaluation, Protocol, evaluate_level, timed_prompts
from specbound.evaluation.rows import EvaluatedRow
from specbound.evaluation.timing import ContentionProbe
from specbound.evaluation.verify import for_prompt
from specbound.models.loading import load_model
from specbound_controller.costs import WORK_NAMES, CostTable
from specbound_controller.policy import Policy, StaticPolicy
from specbound_profiling.prompts.files import Prompt

EXITS = (1, 2, 3)
HOT = {"do_sample": True, "temperature": 2.0, "seed": 3}
PROMPTS = [
    Prompt(f"p{i}", task, text)
    for i, (task, text) in enumerate(
        [("prose", "the cat sat on"), ("code", "def return ( )"), ("prose", "a dog ran"), ("code", "one two . ,")]
    )
]


@pytest.fixture(scope="module")
def measure(tiny_model_dir: Path) -> Callable[..., LevelEvaluation]:
    """Measures a fixed draft and a threshold on four prompts of two kinds."""

    def run(compression: str = "none", **changes: object) -> LevelEvaluation:
        loaded = load_model(str(tiny_model_dir), compression)
        options = {"num_rounds": 1, "w_max": 4, "seed": 0, "allow_noise": True, **changes}
        protocol = Protocol(**options)  # type: ignore[arg-type]
        prompts = timed_prompts(PROMPTS, loaded, 12, protocol.sampling)
        policies: dict[str, Policy] = {
            "best_static": StaticPolicy((2,), 0.0, 2),
            "controller": StaticPolicy((1, 3), 0.02, 4),
        }
        costs = CostTable(dict.fromkeys(WORK_NAMES, 1e-4), compression, "made up", 0.0, 30)
        return evaluate_level(loaded, prompts, policies, costs, EXITS, protocol, lambda line: None)

    return run


def totals(level: LevelEvaluation) -> list[EvaluatedRow]:
    return [row for row in level.rows if row.task == "all"]


def test_every_method_stands_beside_the_limit_on_every_kind_of_content(
    measure: Callable[..., LevelEvaluation],
) -> None:
    grid = (StaticPolicy((2,), 0.0, 2).decide(None), StaticPolicy(()).decide(None))
    level = measure(grid=grid, num_rounds=2)
    names = ["transformers", "plain", "best_static", "controller", "oracle_grid", "oracle"]
    assert [row.method for row in level.rows] == names * 3
    assert [row.task for row in level.rows] == ["prose"] * 6 + ["code"] * 6 + ["all"] * 6
    assert level.is_trustworthy
    assert all(row.outputs_equal for row in totals(level)[:4])
    assert {each.other for each in level.comparisons} == {"plain", "best_static"}
    oracle = totals(level)[-1]
    assert oracle.simulated and oracle.share_of_oracle_gain == 1.0 and oracle.regret_to_oracle == 0.0
    assert totals(level)[-2].speedup <= oracle.speedup + 1e-9
    assert math.isnan(totals(level)[3].decision_s_per_step)  # not asked for


def test_below_fp32_the_bitwise_level_is_claimed_and_the_models_own_kernels_are_not(
    measure: Callable[..., LevelEvaluation],
) -> None:
    level = measure("bf16", exactness="bitwise", num_decision_prompts=2)
    named = [(row.method, row.exactness) for row in totals(level)]
    assert named[:3] == [("transformers", "token"), ("plain", "token"), ("plain", "bitwise")]
    assert all(math.isnan(row.speedup) for row in totals(level)[:2])
    assert all(row.outputs_equal and row.speedup > 0 for row in totals(level)[2:5])
    assert totals(level)[3].decision_s_per_step > 0 and level.num_other_traces == 0
    assert any("plain decoding makes" in note and "no claim" in note for note in level.conditions())


def test_below_fp32_the_token_level_claims_nothing(measure: Callable[..., LevelEvaluation]) -> None:
    level = measure("bf16", exactness="token")
    assert all(math.isnan(row.speedup) for row in totals(level) if row.method in ("best_static", "controller"))
    assert level.comparisons == [] and level.is_trustworthy
    assert any("no speedup is claimed" in note for note in level.conditions())


def test_sampled_outputs_are_equal_and_transformers_draws_others(measure: Callable[..., LevelEvaluation]) -> None:
    level = measure(sampling=HOT)
    rows = {row.method: row for row in totals(level)}
    assert rows["transformers"].outputs_equal is None and math.isnan(rows["transformers"].speedup)
    assert rows["controller"].outputs_equal and rows["controller"].speedup > 0
    assert level.num_other_traces == 0  # the oracle is of the sampled texts
    assert any("random numbers of its own" in note for note in level.conditions())


def test_every_prompt_samples_with_a_seed_of_its_own(tiny_model_dir: Path) -> None:
    prompts = timed_prompts(PROMPTS, load_model(str(tiny_model_dir)), 12, HOT)
    assert [prompt.sampling["seed"] for prompt in prompts] == [3, 4, 5, 6]
    assert prompts[2].sampling == for_prompt(HOT, 2)


def test_a_continuation_is_cut_where_it_loops_for_all(
    measure: Callable[..., LevelEvaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    class LoopsAtEight:
        """Sees at the eighth token that the fifth was the last before a loop."""

        num_tokens = 0

        def add(self, token: int) -> int | None:
            self.num_tokens += 1
            return 5 if self.num_tokens == 8 else None

    monkeypatch.setattr("specbound_profiling.recording.record.LoopDetector", LoopsAtEight)
    level = measure()
    assert level.num_loops_cut == 4
    assert {row.num_tokens for row in totals(level)} == {4 * 5}
    assert any("4 of 4 continuations were cut" in note for note in level.conditions())


def test_a_busy_machine_shows_no_speedup_unless_allowed(
    measure: Callable[..., LevelEvaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ContentionProbe, "is_quiet", False)
    level = measure(allow_noise=False)
    assert all(math.isnan(row.speedup) for row in level.rows)
    assert level.comparisons == [] and not level.is_trustworthy


def test_rounds_end_when_the_contest_is_decided_and_the_page_says_what_five_per_cent_take(
    measure: Callable[..., LevelEvaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    def num_rounds(level: LevelEvaluation) -> int:
        return len(level.evaluation.timings["controller"][0].runs_s)

    assert num_rounds(measure(num_rounds=3, until=1e9)) == 3  # four prompts have no interval
    monkeypatch.setattr("specbound.evaluation.compare.MIN_BOOTSTRAP_PROMPTS", 4)
    level = measure(num_rounds=3, until=1e9)
    assert num_rounds(level) == 1 and level.evaluation.contest == ("controller", "best_static")
    assert any(note.startswith("controller over best static: the ratio differs by") for note in level.conditions())
    assert num_rounds(measure(num_rounds=2, until=1e-9)) == 2
