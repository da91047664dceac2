"""Files that ship with the package: the demonstration model, its controller, its prompts. Imports nothing heavy."""

from pathlib import Path

_HERE = Path(__file__).parent


def demo_model_dir() -> Path:
    """The demonstration model, a transformers checkpoint with its tokenizer and model card."""
    return _HERE / "demo_model"


def demo_controller_dir() -> Path:
    """The controller trained for the demonstration model."""
    return _HERE / "demo_controller"


def demo_prompts_path(split: str) -> Path:
    """Prompts from held-out documents. split: `profile` (profiling and training) or `evaluate`."""
    return _HERE / f"demo_prompts_{split}.jsonl"


def training_prompts_path() -> Path:
    """Six hundred prompts of ten kinds, by `specbound prompts`; source and licence stand on each line."""
    return _HERE / "training_prompts.jsonl"


def smollm2_exits_dir() -> Path:
    """Trained exits for SmolLM2-135M-Instruct, where the package holds them."""
    return _HERE / "smollm2_exits"
