"""Training prompts: from what is published, seeded, even over the kinds, each line with source and licence."""

import json
from collections import Counter
from pathlib import Path

import pytest

from specbound.cli.main import main
from specbound_controller.errors import InputError
from specbound_profiling.prompts.files import NUM_HELD_OUT, load_prompts
from specbound_profiling.prompts.training.config import PromptsConfig
from specbound_profiling.prompts.training.make import MAX_PROMPT_WORDS, make_prompts
from specbound_profiling.prompts.training.sources import MAX_WORDS, MIN_WORDS, find_texts
from specbound_profiling.prompts.training.templates import WORDINGS

SHARED = Path(__file__).parents[5] / "shared" / "data"
SENTENCE = "On the third day the old sailor Ben told Mary that the ship had left for Dover before the storm came in. "
HEADING = "# Title: {title}\n\n## Author: A\n\n-------\n## ONE\n\n"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A little of every source, in its public form."""
    folder = tmp_path / "sources"
    for name in ("gsm8k", "mbpp", "self", "books", "wiki", "plays"):
        (folder / name).mkdir(parents=True)

    def lines(path: str, *rows: object) -> None:
        (folder / path).write_text("".join(json.dumps(row) + "\n" for row in rows))

    question = {"question": "How many apples has Ann?", "answer": "#### 2"}
    lines("gsm8k/train.jsonl", *({**question, "question": f"{i} apples?"} for i in range(12)))
    lines("gsm8k/test.jsonl", {**question, "question": "a test question"})
    task = {"text": "Write a function.", "code": "", "test_list": ["assert f() == 1", "assert f() == 2"]}
    lines("mbpp/mbpp.jsonl", *({**task, "task_id": i} for i in (1, 11, 600, 601, 602, 974)))
    seed = {"id": "seed_task_0", "instruction": "Name it.", "instances": [{"input": "a cat", "output": "cat"}]}
    lines("self/seed_tasks.jsonl", seed)
    book = "\n\n".join(SENTENCE * 4 + f"It was {i} o'clock." for i in range(60))
    (folder / "books/one.md").write_text(HEADING.format(title="A Book") + book)
    wiki = " \n = The Cat = \n \n The cat , a small @-@ sized animal , sleeps . It eats <unk> . \n = = Food = = \n "
    (folder / "wiki/test.txt").write_text(wiki + ("Cats like Fish . " * 25) + "\n = <unk> dog = \n " + "A dog . " * 40)
    (folder / "plays/input.txt").write_text("First Citizen:\nSpeak, good Marcius. " + "Hear me, noble Rome. " * 18)
    return folder


def test_every_source_is_found_by_what_it_holds_and_only_for_training(sources: Path) -> None:
    texts = find_texts(sources)
    kinds = Counter((text.kind, text.licence) for text in texts)
    assert kinds["math", "MIT"] == 12 and kinds["code", "CC BY 4.0"] == 3 and kinds["instruct", "Apache-2.0"] == 1
    assert kinds["", "public domain"] == 61 and kinds["", "CC BY-SA 3.0"] == 1
    assert not any("test question" in text.text for text in texts)
    assert {text.text_id for text in texts if text.kind == "code"} == {"mbpp-601", "mbpp-602", "mbpp-974"}
    passages = [text for text in texts if not text.kind]
    assert all(MIN_WORDS <= len(text.text.split()) <= MAX_WORDS for text in passages)
    (article,) = [text for text in texts if text.licence == "CC BY-SA 3.0"]
    assert article.text.startswith("The cat, a small-sized animal, sleeps.") and "<unk>" not in article.text
    assert "Name it.\n\na cat" in {text.text for text in texts}


def test_the_same_seed_gives_the_same_file_and_another_one_another(
    sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        out = str(tmp_path / name)
        assert main(("prompts", "--sources", str(sources), "--num-prompts", "40", "--seed", seed, "--out", out)) == 0
        files.append((tmp_path / name).read_text())
    assert files[0] == files[1] != files[2]
    assert "40 prompts" in capsys.readouterr().out
    assert len(load_prompts(str(tmp_path / "a"))) == 40  # unique ids, non-empty texts


def test_kinds_are_even_and_no_passage_is_used_twice(sources: Path) -> None:
    rows = make_prompts(PromptsConfig(sources=str(sources), out="", num_prompts=40))
    counts = Counter(row["task"] for row in rows)
    assert set(counts) == {*WORDINGS, "math", "code", "instruct"}
    assert counts["instruct"] == 1 and counts["code"] == 3  # all that there are
    assert max(counts[kind] for kind in WORDINGS) - min(counts[kind] for kind in WORDINGS) <= 1
    passages = [row["source"] for row in rows if row["task"] in WORDINGS]
    assert len(set(passages)) == len(passages)
    assert all(row["source"] and row["licence"] for row in rows)
    assert all(len(row["prompt"].split()) <= MAX_PROMPT_WORDS and "{" not in row["prompt"] for row in rows)


def test_too_few_sources_say_how_many_prompts_there_are(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"num_prompts must be at most \d+ for what is in .*12 math.*got 5000"):
        make_prompts(PromptsConfig(sources=str(sources), out="", num_prompts=5000))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="sources must hold files of one or several of GSM8K, MBPP"):
        find_texts(tmp_path / "empty")
    with pytest.raises(InputError, match="sources must be a folder"):
        find_texts(tmp_path / "nothing")


def test_shipped_prompts_are_those_that_may_be_shipped() -> None:
    prompts = load_prompts("training")
    assert len(prompts) == 600 and set(Counter(prompt.task for prompt in prompts).values()) == {60}
    from specbound.assets import training_prompts_path

    rows = [json.loads(line) for line in training_prompts_path().read_text().splitlines()]
    assert {row["licence"] for row in rows} <= {"MIT", "CC BY 4.0", "public domain", "PSF-2.0"}
    profiled, measured = load_prompts("training:profile"), load_prompts("training:evaluate")
    assert set(Counter(prompt.task for prompt in measured).values()) == {NUM_HELD_OUT}
    assert sorted(each.prompt_id for each in (*profiled, *measured)) == sorted(each.prompt_id for each in prompts)
    assert all(row["source"] and len(row["prompt"].split()) <= MAX_PROMPT_WORDS for row in rows)


@pytest.mark.skipif(not (SHARED / "gsm8k").exists(), reason="the published files are not here")
def test_the_published_files_give_more_than_ten_thousand_none_of_them_a_question_of_spec_bench() -> None:
    rows = make_prompts(PromptsConfig(sources=str(SHARED), out=""))
    assert len(rows) >= 10_000
    questions = [prompt.text for prompt in load_prompts(str(SHARED / "spec_bench" / "question.jsonl"))]
    asked = {" ".join(text.split()) for text in questions}
    assert not asked & {" ".join(row["prompt"].split()) for row in rows}
