"""Where training begins: nearer to the full model than the raw exit, for each module that is to begin there."""

from pathlib import Path

import pytest
import torch

from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.loading import load_model
from specbound_controller.draft_vocabulary import most_frequent
from specbound_train.exits.measure import measure
from specbound_train.exits.start import start_students
from specbound_train.exits.students import Teacher, new_modules
from specbound_train.exits.text import load_text
from tests.train.exits.conftest import FAMILIES, settings

VARIANTS = ("main", "no-state", "raw-start", "low-rank")


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_begin_nearer_to_the_full_model(family: str, own_text: dict[str, Path], tmp_path: Path) -> None:
    config = settings(own_text[family], tmp_path, compare=VARIANTS[1:])
    loaded = load_model(config.model)
    loaded.model.requires_grad_(False)
    adapter = ModelAdapter(loaded.model)
    text = load_text(config, loaded, adapter)
    teacher = Teacher(adapter, most_frequent(text.counts, 40, sorted(adapter.eos_token_ids)), (1, 2))
    students = new_modules(config, adapter, (1, 2), VARIANTS)
    raw = {name: values.clone() for name, values in students.state_dict().items()}
    start_students(students, teacher, text, config)
    changed = {name.partition(".")[0] for name, values in students.state_dict().items() if (values != raw[name]).any()}
    assert {"main@1", "main@2"} <= changed <= {f"{variant}@{layer}" for variant in VARIANTS[:2] for layer in (1, 2)}
    overlap = {(e.variant, e.exit_layer): e.overlap for e in measure(teacher, students, text.held_out, config)[::-1]}
    assert overlap["main", 1] > overlap["raw-start", 1] + 0.02  # on text that the map was not solved on
    assert overlap["no-state", 1] > overlap["raw-start", 1] - 0.02


def test_the_norm_of_what_a_module_says_is_the_models_own(own_text: dict[str, Path], tmp_path: Path) -> None:
    """A map that is right gives what the model's last norm gives: its inputs are the last layer's own here."""
    config = settings(own_text["llama"], tmp_path)
    loaded = load_model(config.model)
    adapter = ModelAdapter(loaded.model)
    text = load_text(config, loaded, adapter)
    teacher = Teacher(adapter, most_frequent(text.counts, 40, sorted(adapter.eos_token_ids)), (3,))
    students = new_modules(config, adapter, (3,), ("no-state",))
    states = teacher.states

    def all_final(ids: torch.Tensor) -> dict[int, torch.Tensor]:
        return dict.fromkeys((0, 3), states(ids)[0])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "states", all_final)
        start_students(students, teacher, text, config)
        found = {e.variant: e.top1 for e in measure(teacher, students, text.held_out, config)}
    assert found["no-state"] > 0.9 * found["raw"]
