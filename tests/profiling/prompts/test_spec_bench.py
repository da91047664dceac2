"""The split of Spec-Bench's questions, and what of a file it takes."""

import json
from collections import Counter
from pathlib import Path

import pytest

from specbound_controller.errors import InputError
from specbound_profiling.prompts.files import load_prompts
from specbound_profiling.prompts.spec_bench import SPLITS, ids_of, question_id, refuse_split, split_of

QUESTIONS = Path(__file__).parents[4] / "shared" / "data" / "spec_bench" / "question.jsonl"


def test_no_question_is_in_both_and_none_is_missing() -> None:
    tuning, evaluation = ids_of("tuning"), ids_of("evaluation")
    assert (len(tuning), len(evaluation)) == (96, 384) and not tuning & evaluation
    assert tuning | evaluation == set(map(str, range(81, 561)))


@pytest.mark.skipif(not QUESTIONS.exists(), reason="Spec-Bench's file is not here")
def test_a_fifth_of_every_category_is_for_tuning() -> None:
    prompts = load_prompts(f"{QUESTIONS}:tuning")
    per_category = Counter({question_id(p.prompt_id): p.category or p.task for p in prompts}.values())
    whole = Counter({question_id(p.prompt_id): p.category or p.task for p in load_prompts(str(QUESTIONS))}.values())
    assert per_category == Counter({name: count // 5 for name, count in whole.items()})
    tasks = {"mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag"}
    assert {p.task for p in prompts} == tasks
    assert len(load_prompts(f"{QUESTIONS}:evaluation")) == 384 + 64  # turns: a fifth of MT-Bench's 80 is for tuning


def test_a_split_takes_all_turns_of_its_questions(tmp_path: Path) -> None:
    path = tmp_path / "question.jsonl"
    rows = [{"question_id": i, "category": "qa", "turns": ["one", "two"]} for i in range(81, 86)]
    path.write_text("\n".join(map(json.dumps, rows)))
    names = {split: [p.prompt_id for p in load_prompts(f"{path}:{split}")] for split in ("tuning", "evaluation")}
    assert names == {
        "tuning": ["83/1", "83/2", "85/1", "85/2"],
        "evaluation": ["81/1", "81/2", "82/1", "82/2", "84/1", "84/2"],
    }


def test_questions_are_not_for_training_and_those_for_evaluation_not_for_tuning() -> None:
    for split in SPLITS:
        with pytest.raises(InputError, match=f"training needs other prompts than Spec-Bench's for {split}"):
            refuse_split(f"question.jsonl:{split}", SPLITS, "training")
    refuse_split("question.jsonl:tuning", ("evaluation",), "tuning")
    refuse_split("own.jsonl", SPLITS, "training")


def test_a_file_of_other_questions_has_no_split(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"prompt": "a"}')
    with pytest.raises(InputError, match=r"at least one prompt, got none .*own\.jsonl:tuning"):
        load_prompts(f"{path}:tuning")
    assert split_of("own.jsonl") == ("own.jsonl", None) and split_of("a:b.jsonl") == ("a:b.jsonl", None)
