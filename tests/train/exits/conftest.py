"""Random four-layer models of three families, each with text that it wrote itself."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from specbound.stores.write import write
from specbound.stores.write_config import WriteConfig
from specbound_train.exits.config import TrainExitsConfig
from tests.conftest import WORDS

SPREAD = 0.15
"""Standard deviation of the models' matrices."""
FAMILIES = ("llama", "qwen2", "gpt_neox")


@pytest.fixture(scope="session")
def own_text(tmp_path_factory: pytest.TempPathFactory, save_tiny_model: Callable[..., Path]) -> dict[str, Path]:
    """Family -> folder with `model` and `text`."""
    root, rng = tmp_path_factory.mktemp("own_text"), random.Random(0)
    prompts = root / "prompts.jsonl"
    rows = [{"prompt_id": f"p{i}", "prompt": " ".join(rng.choices(WORDS, k=rng.randint(4, 9)))} for i in range(24)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folders = {}
    for family in FAMILIES:
        folder = folders[family] = root / family
        model = _less_agreeing(save_tiny_model(folder / "model", family))
        write(
            WriteConfig(
                out=str(folder / "text"),
                prompts=str(prompts),
                model=str(model),
                num_tokens=700,
                max_new_tokens=24,
                batch=12,
                temperature=1.5,
            )
        )
    return folders


def _less_agreeing(folder: Path) -> Path:
    """The same model with wider weights: its shallow layers say other things than its last one."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(0.0, SPREAD, generator=generator)
    model.save_pretrained(folder)
    return folder


def settings(folder: Path, out: Path, **changes: Any) -> TrainExitsConfig:
    """A training of seconds."""
    usual: dict[str, Any] = {
        "out": str(out),
        "model": str(folder / "model"),
        "own_text": str(folder / "text"),
        "exit_layers": (1,),
        "width": 32,
        "rank": 8,
        "draft_vocabulary": 40,
        "num_tokens": 4000,
        "sequence_length": 40,
        "batch_tokens": 160,
        "validation_share": 0.2,
        "validation_tokens": 200,
        "validate_every": 2000,
        "learning_rate": 1e-2,
        "checkpoint_every": 5,
    }
    return TrainExitsConfig(**usual | changes)
