"""Writes the table of supported families into `docs/models.md`: `python -m tests.model_table`."""

from pathlib import Path

from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from specbound.decoding.model.families import FAMILIES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
POSITIONS = {
    "rotary": "rotary",
    "rotary_by_kind": "rotary, by kind of layer",
    "wpe": "learned",
    "offset": "learned, with an offset",
}


def to_markdown() -> str:
    """A line for each entry of `FAMILIES`."""
    lines = ["| `model_type` | transformers class | positions | lean layers on a CPU |", "|---|---|---|---|"]
    for name, family in FAMILIES.items():
        assert name in CONFIG_MAPPING
        is_lean = "yes" if family.is_lean else "no"
        lines.append(
            f"| `{name}` | `{MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]}` | {POSITIONS[family.positions]} | {is_lean} |"
        )
    return "\n".join(lines)


def with_table(page: str) -> str:
    """The page with today's table."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found
    return f"{before}{BEGIN}\n\n{to_markdown()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
