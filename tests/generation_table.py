"""Writes the table of docs/generation.md anew: every field of transformers' generation config, `python -m
tests.generation_table`, a minute on one core.

Each field is left out, switched off with None (where the model's own config sets it) and given a telling value, for one
prompt and for a left-padded batch, through `decoder.generate` and through `model.generate(custom_generate=decoder)`.
What comes out is transformers' own output, or the field is refused by name. Sampling is compared with our noise in the
place of transformers' (`same_noise`).
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import CompileConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.noise import gumbel_noise
from specbound_controller.errors import InputError
from specbound_controller.policy import StaticPolicy
from tests.decoding.families import random_model, random_prompt

PAGE = Path(__file__).resolve().parents[1] / "docs" / "generation.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
SEED = 11
ENDS = list(range(10, 40))
"""End tokens that come soon."""
SAME, REFUSED, BOTH_FAIL = "as transformers", "refused by name", "transformers raises"


@dataclass(frozen=True, slots=True)
class Setting:
    """A field of the generation config with what is needed to see it."""

    value: Any
    beside: dict[str, Any] = field(default_factory=dict)
    """Other arguments of all calls."""
    is_seen: bool = True
    """Whether transformers' output shows it."""


SAMPLED = {"do_sample": True, "top_k": 0}
ENDING = {"eos_token_id": ENDS}
DICTIONARY = {"return_dict_in_generate": True}
FIELDS: dict[str, Setting] = {
    "max_length": Setting(14, {"max_new_tokens": None}),
    "max_new_tokens": Setting(5),
    "min_length": Setting(13, ENDING),
    "min_new_tokens": Setting(6, ENDING),
    "early_stopping": Setting(True, is_seen=False),
    "max_time": Setting(0.0),
    "stop_strings": Setting(["w9"], {"tokenizer": ...}, is_seen=False),
    "do_sample": Setting(True),
    "num_beams": Setting(2),
    "use_mtp": Setting(True),
    "use_cache": Setting(False, is_seen=False),
    "cache_implementation": Setting("static", is_seen=False),
    "cache_config": Setting({"backend": "quanto"}, is_seen=False),
    "max_cache_len": Setting(64, is_seen=False),
    "temperature": Setting(0.4, SAMPLED),
    "top_k": Setting(2, {"do_sample": True}),
    "top_p": Setting(0.3, SAMPLED),
    "min_p": Setting(0.5, SAMPLED),
    "top_h": Setting(0.2, SAMPLED),
    "typical_p": Setting(0.2, SAMPLED),
    "epsilon_cutoff": Setting(0.2, SAMPLED),
    "eta_cutoff": Setting(0.5, SAMPLED),
    "repetition_penalty": Setting(2.0),
    "encoder_repetition_penalty": Setting(2.0),
    "length_penalty": Setting(2.0, is_seen=False),
    "no_repeat_ngram_size": Setting(1),
    "bad_words_ids": Setting([[token] for token in range(3, 60)]),
    "renormalize_logits": Setting(True, is_seen=False),
    "forced_bos_token_id": Setting(7, is_seen=False),
    "forced_eos_token_id": Setting(20),
    "remove_invalid_values": Setting(True, is_seen=False),
    "exponential_decay_length_penalty": Setting((1, 3.0), {"eos_token_id": [20]}),
    "suppress_tokens": Setting(list(range(3, 60))),
    "begin_suppress_tokens": Setting(list(range(3, 90))),
    "sequence_bias": Setting([[[11], 50.0]]),
    "token_healing": Setting(True, {"tokenizer": ...}),
    "guidance_scale": Setting(1.5),
    "watermarking_config": Setting({"bias": 30.0, "greenlist_ratio": 0.2}),
    "num_return_sequences": Setting(2, SAMPLED),
    "output_attentions": Setting(True, DICTIONARY, is_seen=False),
    "output_hidden_states": Setting(True, DICTIONARY, is_seen=False),
    "output_scores": Setting(True, DICTIONARY, is_seen=False),
    "output_logits": Setting(True, DICTIONARY, is_seen=False),
    "return_dict_in_generate": Setting(True, is_seen=False),
    "pad_token_id": Setting(5, ENDING, is_seen=False),
    "bos_token_id": Setting(4, is_seen=False),
    "eos_token_id": Setting(ENDS),
    "encoder_no_repeat_ngram_size": Setting(1),
    "decoder_start_token_id": Setting(4, is_seen=False),
    "is_assistant": Setting(True, is_seen=False),
    "num_assistant_tokens": Setting(7, is_seen=False),
    "num_assistant_tokens_schedule": Setting("heuristic", is_seen=False),
    "assistant_confidence_threshold": Setting(0.9, is_seen=False),
    "prompt_lookup_num_tokens": Setting(3, is_seen=False),
    "max_matching_ngram_size": Setting(3, is_seen=False),
    "assistant_early_exit": Setting(2, is_seen=False),
    "assistant_lookbehind": Setting(3, is_seen=False),
    "target_lookbehind": Setting(3, is_seen=False),
    "assistant_ensemble_weight": Setting(0.5, is_seen=False),
    "speculation_type": Setting("dflash", is_seen=False),
    "compile_config": Setting(CompileConfig(), is_seen=False),
    "disable_compile": Setting(True, is_seen=False),
    "continuous_batching_config": Setting({}, is_seen=False),
    "low_memory": Setting(True, is_seen=False),
    "penalty_alpha": Setting(0.6, {"top_k": 4}),
    "dola_layers": Setting("low"),
    "diversity_penalty": Setting(0.5, is_seen=False),
    "num_beam_groups": Setting(2, is_seen=False),
    "constraints": Setting(["none"]),
    "force_words_ids": Setting([[5]]),
    "prefill_chunk_size": Setting(3, is_seen=False),
    "transformers_version": Setting("5.0.0", is_seen=False),
}
"""A field of a later transformers that is missing here makes the test fail: somebody must decide what it means."""


def fields() -> list[str]:
    """Every field of the installed transformers' generation config."""
    return [name for name in vars(GenerationConfig()) if not name.startswith("_")]


def inputs(is_batch: bool) -> dict[str, Tensor]:
    """A prompt of 8 tokens; in a batch a shorter one before it, padded on the left."""
    long = random_prompt(1, 8)
    if not is_batch:
        return {"inputs": long, "attention_mask": torch.ones_like(long)}
    short = torch.cat([torch.zeros(1, 3, dtype=torch.int64), random_prompt(2, 5)], dim=1)
    mask = torch.ones(2, 8, dtype=torch.int64)
    mask[0, :3] = 0
    return {"inputs": torch.cat([short, long]), "attention_mask": mask}


@contextmanager
def same_noise(prompt_lengths: list[int], seed: int = SEED) -> Iterator[None]:
    """Inside, transformers samples with the decoder's noise: row r with seed + r, by the position in the row."""
    drawn, steps = torch.multinomial, iter(range(10**6))

    def noisy(probabilities: Tensor, num_samples: int) -> Tensor:
        step, rows = next(steps), probabilities.double().log()
        token_ids = torch.arange(rows.shape[1])
        copies = rows.shape[0] // len(prompt_lengths)
        for row, scores in enumerate(rows):
            scores += gumbel_noise(seed + row, prompt_lengths[row // copies] + step, token_ids)
        return rows.argmax(-1, keepdim=True)

    torch.multinomial = noisy  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.multinomial = drawn


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gave."""

    sequences: list[list[int]] | None
    error: str = ""
    is_refusal: bool = False


def outcome(call: Callable[[], Any]) -> Outcome:
    try:
        output = call()
    except Exception as error:  # whatever transformers raises
        return Outcome(None, f"{type(error).__name__}: {error}", isinstance(error, InputError))
    return Outcome((output if isinstance(output, Tensor) else output.sequences).tolist())


def verdict(name: str, theirs: Outcome, ours: Outcome) -> str:
    """One cell of the table. Anything else than equality, a refusal by name and a common failure is a bug."""
    if ours.is_refusal and name in ours.error:
        return REFUSED
    if theirs.sequences is None:
        return BOTH_FAIL if ours.sequences is None else f"transformers raises {theirs.error}, got {ours.sequences}"
    if ours.sequences == theirs.sequences:
        return SAME
    if ours.sequences is None and "tokenizer" in ours.error:
        return REFUSED  # transformers hands no tokenizer to a decoding function, and says so
    return f"{ours.error or ours.sequences} instead of {theirs.sequences}"


def tokenizer() -> PreTrainedTokenizerFast:
    """Words for all tokens of the model; transformers' stop strings probe for `abcdef`."""
    words = {"abcdef" if index == 2 else f"w{index}": index for index in range(97)}
    own = Tokenizer(models.WordLevel(words, unk_token="w0"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="w0")


@dataclass(frozen=True, slots=True)
class Line:
    """What comes of one field: cells by (prompt or batch, left out or None or value)."""

    name: str
    setting: Setting
    cells: dict[tuple[str, str], tuple[str, str]]
    """Verdicts of the two entry points."""
    theirs: dict[tuple[str, str], Outcome]
    """What transformers gave."""

    def bugs(self) -> list[str]:
        """What is neither as in transformers nor refused, and a value that says nothing."""
        known = {SAME, REFUSED, BOTH_FAIL}
        found = [f"{self.name} {key}: {cell}" for key, pair in self.cells.items() for cell in pair if cell not in known]
        is_seen = any(self.theirs[each, "value"] != self.theirs[each, "left out"] for each in ("prompt", "batch"))
        return found if is_seen or not self.setting.is_seen else [*found, f"{self.name}: the value makes no difference"]

    def to_markdown(self) -> str:
        cells = [f"`{self.name}`", f"`{shown(self.setting.value)}`"]
        for inputs_name in ("prompt", "batch"):
            for how in ("None", "value"):
                ours, inside = self.cells[inputs_name, how]
                cells.append(ours if ours == inside else f"{ours}; inside transformers {inside}")
        return "| " + " | ".join(cells) + " |"


def shown(value: Any) -> str:
    text = type(value).__name__ if not isinstance(value, (int, float, str, list, tuple, dict)) else repr(value)
    return text if len(text) <= 30 else f"{text[:27]}..."


def line_of(name: str) -> Line:
    """Runs one field."""
    setting = FIELDS[name]
    cells: dict[tuple[str, str], tuple[str, str]] = {}
    found: dict[tuple[str, str], Outcome] = {}
    beside = {key: tokenizer() if value is ... else value for key, value in setting.beside.items()}
    common = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, **beside}
    for inputs_name in ("prompt", "batch"):
        arguments = inputs(inputs_name == "batch")
        lengths = arguments["attention_mask"].sum(-1).tolist()
        for how, value in (("left out", ...), ("None", None), ("value", setting.value)):
            model = random_model("llama", num_layers=3, dtype=torch.float64)
            if how == "None" and name not in ("max_new_tokens", "continuous_batching_config"):
                setattr(model.generation_config, name, setting.value)
            own = {**arguments, **common} | ({} if value is ... else {name: value})
            if value is ...:
                own.pop(name, None)
            theirs, *ours = run(model, own, lengths)
            found[inputs_name, how] = theirs
            cells[inputs_name, how] = verdict(name, theirs, ours[0]), verdict(name, theirs, ours[1])
    return Line(name, setting, cells, found)


def run(model: PreTrainedModel, arguments: dict[str, Any], lengths: list[int]) -> tuple[Outcome, Outcome, Outcome]:
    """What transformers gives, and the two entry points."""
    decoder = SpecBoundDecoder(model, StaticPolicy((1,), 0.0, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with same_noise(lengths):
            theirs = outcome(lambda: model.generate(**arguments))
        ours = outcome(lambda: decoder.generate(**arguments, seed=SEED))
        inside = outcome(lambda: model.generate(**arguments, seed=SEED, custom_generate=decoder))
    return theirs, ours, inside


def to_markdown(lines: list[Line]) -> str:
    heads = ("field", "value", "one prompt, `None`", "one prompt, value", "padded batch, `None`", "padded batch, value")
    table = ["| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads))]
    version = f"transformers {transformers.__version__}."
    return "\n".join([version, "", *table, *(line.to_markdown() for line in lines)])


def main(page: Path) -> int:
    """Runs all fields, writes the page, and fails on a bug."""
    transformers.utils.logging.set_verbosity_error()
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"{page} must hold {BEGIN} and {END}"
    lines = [line_of(name) for name in fields()]
    bugs = [bug for line in lines for bug in line.bugs()]
    print(*bugs, sep="\n", file=sys.stderr)
    page.write_text(f"{before}{BEGIN}\n\n{to_markdown(lines)}\n\n{END}{after}", encoding="utf-8")
    return 1 if bugs else 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE))
