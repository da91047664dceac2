"""The stages in order of their worth. A new one is a module with a function `parts` and a line here."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module

from specbound.bench.gpu.finding import Part, Settings
from specbound_controller.errors import InputError


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a call."""

    name: str
    module: str
    """Imported in the stage's own process. Its `parts(settings)` gives the parts in order of their worth."""
    budget_s: float
    """Kept free for it while earlier stages run; what these leave over it gets as well."""
    summary: str

    def parts(self, settings: Settings) -> Iterable[Part]:
        """Its parts, in order."""
        parts: Iterable[Part] = import_module(self.module).parts(settings)
        return parts


STAGES = (
    Stage("tests", "specbound.bench.gpu.suite", 90.0, "pytest -m gpu"),
    Stage("shapes", "specbound.bench.gpu.shapes", 270.0, "published shapes: speed at the papers' acceptance, layers"),
    Stage("micro", "specbound.bench.gpu.micro", 60.0, "launches, synchronisations, vocabularies, bits, graphs"),
    Stage("demo", "specbound.bench.gpu.demo", 100.0, "the demonstration model, evaluated at bf16 and nf4"),
    Stage("smollm2", "specbound.bench.gpu.smollm2", 0.0, "SmolLM2-135M on Spec-Bench, where it has been carried"),
    Stage("write", "specbound.bench.gpu.write", 0.0, "text of SmolLM2's own, at least 10 million tokens"),
)


def stage_of(name: str) -> Stage:
    """Raises InputError for a name that no stage has."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise InputError(f"stages must be some of {', '.join(stage.name for stage in STAGES)}, got {name!r}")
