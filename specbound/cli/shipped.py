"""The YAML files that ship with the package."""

from pathlib import Path


def shipped_config(name: str) -> Path:
    """A YAML file of `configs/`: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    in_wheel = package / "configs" / name
    return in_wheel if in_wheel.exists() else package.parent / "configs" / name
