"""Criteria and processors that look at the whole batch: they see what transformers shows them, call by call."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.evaluation.verify import RandomPolicy
from specbound_controller.policy import Policy, StaticPolicy
from tests.decoding.families import random_model, random_prompt
from tests.decoding.test_batch import padded, prompts_of

POLICIES: list[Policy | None] = [None, StaticPolicy((3,), 0.0, 5), RandomPolicy(4, 1)]
ENDS = [{}, {"eos_token_id": list(range(10, 17))}]


class Seen:
    """What was shown to it, call by call."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[list[int]], bool]] = []

    def look(self, input_ids: Tensor, scores: Any) -> None:
        self.calls.append((input_ids.tolist(), scores is not None))


class EachRowSays(Seen, StoppingCriteria):
    """Ends a row at some tokens."""

    def __call__(self, input_ids: Tensor, scores: Any, **others: Any) -> Tensor:
        self.look(input_ids, scores)
        return (input_ids[:, -1] % 11 == 3) | (input_ids[:, -1] % 13 == 5)


class AllRowsHaveSaid(Seen, StoppingCriteria):
    """Ends the batch when every row has said one of its tokens: a flag per row, kept from call to call."""

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.is_done = [False] * num_rows

    def __call__(self, input_ids: Tensor, scores: Any, **others: Any) -> Tensor:
        self.look(input_ids, scores)
        for row in range(len(self.is_done)):
            self.is_done[row] |= int(input_ids[row, -1]) % 5 == row % 5
        return torch.full((input_ids.shape[0],), all(self.is_done))


class OneAnswerForAll(Seen, StoppingCriteria):
    """Looks at the first row only, and gives one flag, as many people write it."""

    def __call__(self, input_ids: Tensor, scores: Any, **others: Any) -> bool:
        self.look(input_ids, scores)
        return int(input_ids[0, -1]) % 7 == 2


class AcrossRows(Seen, LogitsProcessor):
    """Takes from every row what the row before it likes, and counts its calls."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.look(input_ids, scores)
        scores = scores - 0.5 * scores.roll(1, 0)
        scores[:, len(self.calls) % scores.shape[1]] -= 3.0
        return scores


def compared(model: PreTrainedModel, make: Any, settings: dict[str, Any], num_prompts: int = 4) -> int:
    """Both entry points with every policy; how many rows ended before the last."""
    prompts = prompts_of()[:num_prompts]
    arguments = {"max_new_tokens": 14, "do_sample": False, "pad_token_id": 0, **settings, **padded(prompts)}

    def run(generate: Any, **others: Any) -> tuple[Tensor, list[Any]]:
        seen = make()
        own = {name: kind(seen_ for seen_ in seen if isinstance(seen_, base)) for name, kind, base in KINDS}
        output = generate(**arguments, **own, **others)
        return output, [each.calls for each in seen]

    expected, calls = run(model.generate)
    for policy in POLICIES:
        decoder = SpecBoundDecoder(model, policy)
        for output, shown in (run(decoder.generate), run(model.generate, custom_generate=decoder)):
            assert torch.equal(output, expected), (output[:, 30:].tolist(), expected[:, 30:].tolist())
            assert shown == calls
    return int((expected[:, -1] == 0).sum())


KINDS = (
    ("stopping_criteria", StoppingCriteriaList, StoppingCriteria),
    ("logits_processor", LogitsProcessorList, LogitsProcessor),
)


@pytest.mark.parametrize("ends", ENDS, ids=["no end token", "end tokens"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: [EachRowSays()],
        lambda: [AllRowsHaveSaid(4)],
        lambda: [OneAnswerForAll()],
        lambda: [EachRowSays(), AllRowsHaveSaid(4)],
        lambda: [AcrossRows()],
        lambda: [AcrossRows(), EachRowSays()],
    ],
    ids=["rows", "flags", "one", "two", "processor", "both"],
)
def test_the_whole_batch_is_shown_as_transformers_shows_it(make: Any, ends: dict[str, Any]) -> None:
    model = random_model("llama", dtype=torch.float64)
    compared(model, make, ends)
    compared(model, make, {**ends, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2})


def test_several_samples_of_a_prompt_are_rows_too() -> None:
    model = random_model("llama", dtype=torch.float64)
    prompt = random_prompt(0, 6)
    settings = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": 14, "seed": 3, "pad_token_id": 0}
    criteria = {"stopping_criteria": StoppingCriteriaList([EachRowSays()])}
    plain = SpecBoundDecoder(model).generate(prompt, **settings, **criteria)
    for policy in POLICIES[1:]:
        assert torch.equal(SpecBoundDecoder(model, policy).generate(prompt, **settings, **criteria), plain)
    whole = SpecBoundDecoder(model).generate(prompt, **settings)
    assert torch.equal(plain, whole[:, : plain.shape[1]])  # without an end token all rows go on to the last


def test_criteria_get_the_scores_where_they_were_asked_for() -> None:
    shown: list[list[tuple[int, ...]]] = []

    class Scores(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Any, **others: Any) -> Tensor:
            shown[-1].append(tuple(tuple(each.argmax(-1).tolist()) for each in scores))
            return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    model = random_model("llama", dtype=torch.float64)
    settings = {"return_dict_in_generate": True, "output_scores": True, "max_new_tokens": 8, "do_sample": False}
    for decoder in (None, *(SpecBoundDecoder(model, policy) for policy in POLICIES)):
        shown.append([])
        generate = model.generate if decoder is None else decoder.generate
        generate(**padded(prompts_of()), stopping_criteria=StoppingCriteriaList([Scores()]), **settings)
    assert all(each == shown[0] for each in shown) and len(shown[0]) == 8


@pytest.mark.parametrize(
    "make", [lambda: [EachRowSays()], lambda: [AcrossRows(), EachRowSays()]], ids=["apart", "in step"]
)
def test_tokens_that_criteria_cut_off_are_not_counted(make: Any) -> None:
    model = random_model("llama", dtype=torch.float64)
    for ends in ENDS:
        output = SpecBoundDecoder(model, POLICIES[1]).decode(
            **padded(prompts_of()),
            max_new_tokens=30,
            pad_token_id=0,
            **{name: kind(each for each in make() if isinstance(each, base)) for name, kind, base in KINDS},
            **ends,
        )
        new = output.sequences[:, 30:]
        lengths = [int((row != 0).sum()) if ends else new.shape[1] for row in new]
        assert [stats.num_tokens for stats in output.row_stats] == lengths
        assert [stats.num_step_tokens for stats in output.row_stats] == [length - 1 for length in lengths]


def test_a_row_alone_keeps_its_drafts_with_processors_and_criteria_of_any_kind() -> None:
    model = random_model("llama", dtype=torch.float64)
    stats = SpecBoundDecoder(model, POLICIES[1]).decode(
        random_prompt(0, 6),
        max_new_tokens=30,
        logits_processor=LogitsProcessorList([AcrossRows()]),
        stopping_criteria=StoppingCriteriaList([OneAnswerForAll()]),
    )
    assert stats.stats.num_drafted > 0
