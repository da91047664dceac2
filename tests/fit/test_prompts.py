"""The prompts of every part: none in two, conversations whole, few prompts of a user's all measured on."""

import json
from pathlib import Path

import pytest

from specbound.fit.budget import Sizes
from specbound.fit.config import FitConfig
from specbound.fit.prompts import FEW, PARTS, conversations, file_of, open_pools, write_parts
from specbound_controller.errors import InputError
from specbound_profiling.prompts.files import Prompt, load_prompts

SIZES = Sizes(profile=20, race=4, final=6, measure=10, max_new_tokens=64, estimates={})


def parts_of(config: FitConfig, folder: Path) -> dict[str, list[Prompt]]:
    write_parts(open_pools(config), SIZES, folder)
    return {part: load_prompts(str(folder / file_of(part))) for part in PARTS}


def own_prompts(folder: Path, count: int, is_chat: bool = False) -> Path:
    path = folder / "own.jsonl"
    rows = [{"question_id": i, "category": f"kind{i % 3}"} | _text(i, is_chat) for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _text(number: int, is_chat: bool) -> dict[str, object]:
    return {"turns": [f"ask {number}", f"more {number}"]} if is_chat else {"prompt": f"text {number}"}


@pytest.mark.parametrize("model", ["demo", "other"])
def test_parts_of_what_ships_are_apart_and_as_large_as_wanted(model: str, tmp_path: Path) -> None:
    parts = parts_of(FitConfig(model=model, out="x"), tmp_path)
    assert {name: len(part) for name, part in parts.items()} == {"profile": 20, "final": 6, "measure": 10}
    texts = [prompt.text for part in parts.values() for prompt in part]
    assert len(set(texts)) == len(texts)
    assert len({prompt.task for prompt in parts["measure"]}) >= 3


def test_conversations_stay_whole_and_on_one_side(tmp_path: Path) -> None:
    parts = parts_of(FitConfig(model="m", out="x", prompts=str(own_prompts(tmp_path, 90, is_chat=True))), tmp_path)
    sides = {prompt.text: part for part, prompts in parts.items() for prompt in prompts}
    assert sides and all(sides.get(f"more {text.split()[1]}") == sides[text] for text in sides)
    assert any(prompt.earlier for prompt in parts["measure"])


def test_few_prompts_of_a_users_are_all_measured_on(tmp_path: Path) -> None:
    pools = open_pools(FitConfig(model="m", out="x", prompts=str(own_prompts(tmp_path, FEW - 1))))
    assert pools.measured_on is not None and len(pools.measured_on) == FEW - 1
    assert {each[0].text for each in pools.measured_on}.isdisjoint(each[0].text for each in pools.chosen_on)
    whole = open_pools(FitConfig(model="m", out="x", prompts=str(own_prompts(tmp_path, FEW))))
    assert whole.measured_on is None and len(whole.chosen_on) == FEW


def test_turns_are_told_from_ids_that_hold_a_slash() -> None:
    single = [Prompt("a/1x", "t", "one"), Prompt("b/2", "t", "two")]
    assert [len(each) for each in conversations(single)] == [1, 1]


def test_missing_prompts_are_refused_before_any_work() -> None:
    with pytest.raises(InputError, match="existing file"):
        open_pools(FitConfig(model="m", out="x", prompts="nothing.jsonl"))
