"""Writes the table of docs/equivalence.md anew: `python -m tests.equivalence`, about a quarter of an hour on one core.

Every cell decodes some prompts plainly and with drafts, in the same process, and judges each first difference. Seeds
are fixed and were not chosen. The text around the table stays as it is.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from specbound.assets import demo_controller_dir
from specbound.cli.edge import set_up
from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.families import FAMILIES
from specbound.evaluation.differences import Difference
from specbound.evaluation.verify import RandomPolicy
from specbound.models.loading import load_model
from specbound.results.report import machine_info, versions
from specbound_controller.compression import COMPRESSIONS
from specbound_controller.controller import Controller
from specbound_controller.policy import Policy
from specbound_profiling.prompts.files import load_prompts
from tests.decoding.families import VARIANTS, random_prompt, save_llama_with_outliers
from tests.decoding.trials import NUM_LAYERS, POLICIES, Outcome, decode_both, model_of, new_policy

PAGE = Path(__file__).resolve().parents[1] / "docs" / "equivalence.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 0, "top_p": 0.95},
}
LEVELS = {"token": ("fp64", "fp32", "bf16", "fp16"), "bitwise": ("fp32", "bf16", "fp16")}
"""Exactness -> number formats of the random models."""
PROMPT_LENGTHS = (1, 40)
"""Of the random models; the longest is beyond every sliding window."""
NEW_TOKENS = 128
DEMO_PROMPTS, DEMO_NEW_TOKENS = 4, 48
QUANTISED: dict[str, dict[str, Any]] = {
    "int8, threshold 6": {"load_in_8bit": True, "llm_int8_threshold": 6.0},
    "int8, threshold 0": {"load_in_8bit": True, "llm_int8_threshold": 0.0},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
}


@dataclass(slots=True)
class Cell:
    """What was decoded in one mode."""

    num_prompts: int = 0
    num_tokens: int = 0
    num_drafted: int = 0
    num_accepted: int = 0
    num_differing_tokens: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.num_prompts += 1
        self.num_tokens += outcome.num_tokens
        self.num_drafted += outcome.num_drafted
        self.num_accepted += outcome.num_accepted
        self.num_differing_tokens += outcome.num_differing_tokens
        if outcome.difference is not None:
            self.differences.append(outcome.difference)

    @property
    def num_bugs(self) -> int:
        return sum(not difference.is_near_tie for difference in self.differences)

    def in_words(self) -> tuple[str, str, str, str]:
        """Prompts, tokens, differing tokens, verdicts."""
        verdicts = [f"{len(self.differences) - self.num_bugs} near-tie", f"{self.num_bugs} bug"]
        counted = [f"{text}{'' if text.startswith('1 ') else 's'}" for text in verdicts if not text.startswith("0 ")]
        numbers = (self.num_prompts, self.num_tokens, self.num_differing_tokens)
        return (*(f"{number:,}" for number in numbers), ", ".join(counted) or "none differs")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table."""

    model: str
    weights: str
    exactness: str
    cells: dict[str, Cell]
    """Mode -> what came of it."""

    def to_markdown(self) -> str:
        parts = [part for cell in self.cells.values() for part in cell.in_words()]
        return "| " + " | ".join((self.model, self.weights, self.exactness, *parts)) + " |"


def decode_line(
    name: str, weights: str, exactness: str, models: Sequence[PreTrainedModel], prompts: Sequence[Tensor]
) -> Line:
    """Every prompt on every model, with another policy each time."""
    line = Line(name, weights, exactness, {mode: Cell() for mode in MODES})
    for model_index, model in enumerate(models):
        plain, drafting = (SpecBoundDecoder(model, record_steps=False, exactness=exactness) for _ in range(2))
        for index, prompt in enumerate(prompts):
            seed = 100 * model_index + index
            for shift, (mode, settings) in enumerate(MODES.items()):
                kind = POLICIES[(seed + 3 * shift) % len(POLICIES)]
                drafting.policy = new_policy(kind, model.config.num_hidden_layers, seed)
                arguments = {**settings, "max_new_tokens": NEW_TOKENS, "seed": seed}
                line.cells[mode].add(decode_both(plain, drafting, prompt, arguments, f"{name} {weights} {index}"))
    return line


def family_lines() -> Iterator[Line]:
    """Small random models of every family, all its variants together."""
    prompts = [random_prompt(length, length) for length in PROMPT_LENGTHS]
    for family in FAMILIES:
        variants = [variant for variant, (model_type, _) in VARIANTS.items() if model_type == family]
        for exactness, formats in LEVELS.items():
            for number_format in formats:
                models = [model_of(variant, number_format, index) for index, variant in enumerate(variants, start=1)]
                yield decode_line(family, number_format, exactness, models, prompts)


def quantised_lines() -> Iterator[Line]:
    """A random Llama, some of whose tokens have outliers in the sense of LLM.int8, through bitsandbytes."""
    prompts = [random_prompt(length, length) for length in PROMPT_LENGTHS]
    with tempfile.TemporaryDirectory() as folder:
        save_llama_with_outliers(folder, NUM_LAYERS)
        for weights, options in QUANTISED.items():
            dtype = torch.float32 if weights == "nf4" else torch.float16
            config = BitsAndBytesConfig(**options)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, quantization_config=config, device_map="cpu"
            )
            for exactness in LEVELS:
                yield decode_line("llama", weights, exactness, [model.eval()], prompts)


def demo_lines() -> Iterator[Line]:
    """The demonstration model on its evaluation prompts: its controller and a random policy, by turns."""
    controller = Controller.load(demo_controller_dir())
    costs = next(iter(controller.config.costs.values()))
    texts = load_prompts("demo:evaluate", DEMO_PROMPTS)
    for compression in COMPRESSIONS:
        loaded = load_model("demo", compression)
        model = greedy_twin(loaded.model, has_end=False)
        prompts = [loaded.tokenizer(prompt.text, return_tensors="pt")["input_ids"] for prompt in texts]
        num_layers = model.config.num_hidden_layers
        learned: Policy = controller.policy(costs, compression)
        for exactness in LEVELS:
            line = Line("demo", compression, exactness, {mode: Cell() for mode in MODES})
            plain, drafting = (
                SpecBoundDecoder(model, None, compression, record_steps=False, exactness=exactness) for _ in range(2)
            )
            for shift, (mode, settings) in enumerate(MODES.items()):
                for index, prompt in enumerate(prompts):
                    is_random = (index + shift) % 2 == 0
                    drafting.policy = RandomPolicy(num_layers, index) if is_random else learned
                    arguments = {**settings, "max_new_tokens": DEMO_NEW_TOKENS, "seed": index}
                    line.cells[mode].add(decode_both(plain, drafting, prompt, arguments, f"{compression} {index}"))
            yield line


def to_markdown(lines: Sequence[Line]) -> str:
    """The generated part of the page: what was decoded, the table, the totals, the machine."""
    columns = ("prompts", "tokens", "differing tokens", "first differences")
    heads = ["model", "weights", "level", *(f"{column}, {mode}" for mode in MODES for column in columns)]
    rules = ["---"] * 3 + ["---:", "---:", "---:", "---"] * len(MODES)
    table = ["| " + " | ".join(cells) + " |" for cells in (heads, rules)] + [line.to_markdown() for line in lines]
    lengths = ", ".join(map(str, PROMPT_LENGTHS))
    used = ", ".join(f"{name} {version}" for name, version in versions().items() if name in SHOWN_VERSIONS)
    paragraphs = (
        f"The random models decode {NEW_TOKENS} tokens after prompts of {lengths} tokens, the demonstration model "
        f"{DEMO_NEW_TOKENS} tokens after each of {DEMO_PROMPTS} prompts. Measured with {used}, one thread, on "
        f"{machine_info()['name']}.",
        totals(lines),
        "\n".join(table),
    )
    return "\n\n".join(paragraphs)


SHOWN_VERSIONS = ("specbound", "torch", "transformers", "bitsandbytes")


def totals(lines: Sequence[Line]) -> str:
    """One sentence for each promise."""
    groups = {
        "`token`, fp64": [x for x in lines if x.exactness == "token" and x.weights == "fp64"],
        "`token`, fp32": [x for x in lines if x.exactness == "token" and x.weights in ("fp32", "none")],
        "`token`, below fp32 (no promise)": [
            x for x in lines if x.exactness == "token" and x.weights not in ("fp64", "fp32", "none")
        ],
        "`bitwise`, all": [x for x in lines if x.exactness == "bitwise"],
    }
    sentences = []
    for name, of_group in groups.items():
        cells = [cell for line in of_group for cell in line.cells.values()]
        prompts, tokens = sum(c.num_prompts for c in cells), sum(c.num_tokens for c in cells)
        drafted, accepted = sum(c.num_drafted for c in cells), sum(c.num_accepted for c in cells)
        bugs, differing = sum(c.num_bugs for c in cells), sum(len(c.differences) for c in cells)
        sentences.append(
            f"* {name}: {prompts:,} prompts, {tokens:,} tokens, {drafted:,} drafted and {accepted:,} accepted; "
            f"{differing} prompts differ, {differing - bugs} first at a near-tie, {bugs} at a bug."
        )
    return "\n".join(sentences)


def main(page: Path) -> int:
    """Decodes everything, writes the page, and fails on a bug."""
    set_up(SimpleNamespace(threads=1))
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"{page} must hold {BEGIN} and {END}"
    lines, started = [], time.perf_counter()
    for source in (family_lines, quantised_lines, demo_lines):
        for line in source():
            lines.append(line)
            print(f"{time.perf_counter() - started:5.0f} s  {line.to_markdown()}", file=sys.stderr, flush=True)
            for difference in (d for cell in line.cells.values() for d in cell.differences if not d.is_near_tie):
                print(difference.describe(), file=sys.stderr, flush=True)
    page.write_text(f"{before}{BEGIN}\n\n{to_markdown(lines)}\n\n{END}{after}", encoding="utf-8")
    return 1 if any(cell.num_bugs for line in lines for cell in line.cells.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE))
