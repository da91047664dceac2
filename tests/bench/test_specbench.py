"""Spec-Bench's files: questions with turns, conversations, categories, answers."""

import json
from pathlib import Path

import pytest

from specbound.bench.specbench import Item, Question, items_of, load_questions, write_answers
from specbound.decoding.model.adapter import ModelAdapter
from specbound.evaluation.timing import TimedPrompt, Timing
from specbound.models.loading import load_model
from specbound_controller.errors import InputError

QUESTIONS = (
    {"question_id": 81, "category": "writing", "turns": ["the cat sat", "a dog ran"]},
    {"question_id": 242, "category": "translation", "turns": ["one two ."]},
)


@pytest.fixture
def question_file(tmp_path: Path) -> Path:
    path = tmp_path / "question.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


def test_questions_keep_ids_turns_and_categories(question_file: Path) -> None:
    first, second = load_questions(str(question_file), None)
    assert (first.question_id, first.turns, first.task) == (81, ("the cat sat", "a dog ran"), "mt_bench")
    assert (second.question_id, second.category, second.task) == (242, "translation", "translation")


def test_prompts_of_other_forms_are_questions_of_one_turn() -> None:
    (question,) = load_questions("demo:evaluate", 1)
    assert len(question.turns) == 1 and question.task == question.category


def test_turns_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "question.jsonl"
    path.write_text(json.dumps({"question_id": 1, "category": "qa", "turns": ["a", 2]}))
    with pytest.raises(InputError, match=r'question\.jsonl:1: "turns" must hold .*\[.a., 2\]'):
        load_questions(str(path), None)


def test_a_question_without_turns_is_its_prompt_and_ids_are_numbers_where_they_were(tmp_path: Path) -> None:
    path = tmp_path / "question.jsonl"
    rows = [
        {"question_id": 1, "turns": [], "prompt": "one"},
        {"question_id": "007", "turns": ["two", None, "three"]},
        {"turns": ["four"], "question_id": None},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = load_questions(str(path), None)
    assert (first.question_id, first.turns) == (1, ("one",))
    assert (second.question_id, second.turns) == ("007", ("two", "three"))
    assert third.question_id == "question-3"


def test_ids_with_a_slash_are_questions_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "humaneval.jsonl"
    path.write_text("".join(json.dumps({"prompt_id": f"HumanEval/{n}", "prompt": f"def {n}"}) + "\n" for n in (0, 1)))
    found = [(question.question_id, question.turns) for question in load_questions(str(path), None)]
    assert found == [("HumanEval/0", ("def 0",)), ("HumanEval/1", ("def 1",))]


def test_a_later_turn_continues_plain_decodings_answer(question_file: Path, tiny_model_dir: Path) -> None:
    loaded = load_model(str(tiny_model_dir))
    answer = loaded.tokenizer("it was that")["input_ids"]
    sampling = {"do_sample": True, "seed": 5}
    questions = load_questions(str(question_file), None)
    items = items_of(questions, loaded, ModelAdapter(loaded.model), lambda prompt: answer, 8, sampling)
    assert [item.prompt.prompt_id for item in items] == ["81/1", "81/2", "242"]
    texts = [loaded.tokenizer.decode(item.prompt.input_ids[0]) for item in items]
    assert texts == ["the cat sat", "the cat sat it was that a dog ran", "one two ."]
    assert [item.prompt.sampling["seed"] for item in items] == [5, 6, 7]


def test_a_loop_is_cut_for_all(tiny_model_dir: Path) -> None:
    loaded = load_model(str(tiny_model_dir))
    questions = [Question("q", "prose", ("the cat",), "prose")]
    (item,) = items_of(questions, loaded, ModelAdapter(loaded.model), lambda prompt: [7] * 30, 30, {})
    assert item.is_loop_cut and item.prompt.max_new_tokens == 2  # the third eightfold 7 stands from the third token on


def test_answers_are_what_spec_bench_reads(tmp_path: Path) -> None:
    question, prompt = Question(81, "writing", ("a", "b"), "mt_bench"), TimedPrompt("x", "mt_bench", None, 8)  # type: ignore[arg-type]
    items = [Item(question, prompt, False)] * 2
    timings = [Timing(tokens=[1, 2, 3], runs_s=[0.5, 0.7, 0.6]), Timing(tokens=[4], runs_s=[0.1])]
    write_answers(
        tmp_path / "plain.jsonl", "plain", "demo", items, timings, [(2, 1), (1,)], lambda t: f"{len(t)} words"
    )
    (answer,) = [json.loads(line) for line in (tmp_path / "plain.jsonl").read_text().splitlines()]
    assert (answer["question_id"], answer["category"], answer["model_id"]) == (81, "writing", "demo-plain")
    assert answer["choices"] == [
        {
            "index": 0,
            "turns": ["3 words", "1 words"],
            "decoding_steps": [2, 1],
            "new_tokens": [3, 1],
            "wall_time": [0.6, 0.1],
            "accept_lengths": [2, 1, 1],
        }
    ]
    assert {"answer_id", "tstamp"} < answer.keys()
