"""Spec-Bench's form: questions in, answers out; and prompts of any other form as questions with one turn.

Every later turn of a question continues plain decoding's answer to the one before, so that all methods see the same
prompts. Knows no method but the plain one that it is given.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from specbound.decoding.model.adapter import ModelAdapter
from specbound.evaluation.timing import TimedPrompt, Timing
from specbound.evaluation.verify import for_prompt
from specbound.models.loading import LoadedModel, chat_ids, has_chat_template
from specbound.results.files import write_file
from specbound_profiling.prompts.files import Prompt, load_prompts, spread
from specbound_profiling.prompts.loops import loop_cut
from specbound_profiling.prompts.spec_bench import question_id
from specbound_profiling.prompts.tokenization import tokenize_prompts

PlainRun = Callable[[TimedPrompt], list[int]]
"""Plain decoding's new tokens of one prompt."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, or several turns of a conversation."""

    question_id: int | str
    category: str
    """As its source says it."""
    turns: tuple[str, ...]
    """What the user says, one after another."""
    task: str
    """Kind of content, as tables show it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One turn of a question, ready to be decoded."""

    question: Question
    prompt: TimedPrompt
    is_loop_cut: bool
    """Whether the limit stands where plain decoding begins to loop."""


def load_questions(source: str, num_prompts: int | None) -> list[Question]:
    """Questions of a source that `load_prompts` knows, with all their turns. Raises InputError as `load_prompts` does.

    num_prompts: questions to take, spread over the kinds of content; None takes all.
    """
    found: list[list[Prompt]] = []
    for prompt in load_prompts(source):
        if prompt.earlier:  # by what was said before, not by its id: HumanEval/0 and HumanEval/1 are two questions
            found[-1].append(prompt)
        else:
            found.append([prompt])
    questions = [_question(turns) for turns in found]
    if num_prompts is None:
        return questions
    return [questions[i] for i in spread([question.task for question in questions], num_prompts)]


def _question(turns: Sequence[Prompt]) -> Question:
    """Spec-Bench's ids are numbers."""
    name = turns[0].prompt_id if len(turns) == 1 else question_id(turns[0].prompt_id)
    is_number = re.fullmatch("0|[1-9][0-9]{0,17}", name) is not None  # not 007
    return Question(
        int(name) if is_number else name,
        turns[0].category or turns[0].task,
        tuple(turn.text for turn in turns),
        turns[0].task,
    )


def items_of(
    questions: Sequence[Question],
    loaded: LoadedModel,
    adapter: ModelAdapter,
    plain: PlainRun,
    max_new_tokens: int,
    sampling: Mapping[str, Any],
    is_raw: bool = False,
) -> list[Item]:
    """Every turn as token ids, with a limit where plain decoding's answer begins to loop.

    Args:
        sampling: arguments of the decoder that choose the tokens; every further turn's seed is one higher.
        is_raw: take texts as they stand, also where the tokenizer has a chat template.
    """
    items: list[Item] = []
    for question in questions:
        said: list[str] = []
        for number, turn in enumerate(question.turns):
            said.append(turn)
            name = str(question.question_id) if len(question.turns) == 1 else f"{question.question_id}/{number + 1}"
            ids = _ids(name, question, said, loaded, adapter, max_new_tokens, is_raw)
            prompt = TimedPrompt(name, question.task, ids, max_new_tokens, for_prompt(dict(sampling), len(items)))
            tokens = plain(prompt)
            cut = loop_cut(tokens)
            prompt = prompt if cut is None else replace(prompt, max_new_tokens=cut)
            items.append(Item(question, prompt, cut is not None))
            said.append(loaded.tokenizer.decode(tokens[:cut], skip_special_tokens=True))
    return items


def _ids(
    name: str,
    question: Question,
    said: Sequence[str],
    loaded: LoadedModel,
    adapter: ModelAdapter,
    max_new_tokens: int,
    is_raw: bool,
) -> Tensor:
    """(1, T): user's and model's texts in turn, by the chat template where the tokenizer has one."""
    if is_raw or not has_chat_template(loaded):
        prompt = Prompt(name, question.task, "\n".join(said))
        return tokenize_prompts([prompt], loaded, adapter, max_new_tokens, is_raw=True)[0]
    roles = ("user", "assistant")
    ids = chat_ids(loaded, [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)])
    return ids if adapter.max_positions is None else ids[:, -(adapter.max_positions - max_new_tokens) :]


def write_answers(
    path: Path,
    method: str,
    model: str,
    items: Sequence[Item],
    timings: Sequence[Timing],
    step_tokens: Sequence[Sequence[int]],
    decode: Callable[[list[int]], str],
) -> None:
    """One method's answers as Spec-Bench's own evaluation reads them, one question a line.

    step_tokens: tokens that each step emitted, one sequence for each item.
    """
    lines = []
    for question, indices in _by_question(items):
        choice = {
            "index": 0,
            "turns": [decode(timings[i].tokens) for i in indices],
            "decoding_steps": [len(step_tokens[i]) for i in indices],
            "new_tokens": [len(timings[i].tokens) for i in indices],
            "wall_time": [timings[i].seconds for i in indices],
            "accept_lengths": [count for i in indices for count in step_tokens[i]],
        }
        answer = {
            "question_id": question.question_id,
            "category": question.category,
            "answer_id": hashlib.sha256(f"{model} {method} {question.question_id}".encode()).hexdigest()[:22],
            "model_id": f"{model}-{method}",
            "choices": [choice],
            "tstamp": time.time(),
        }
        lines.append(json.dumps(answer) + "\n")
    write_file(path, "".join(lines).encode("utf-8"))


def _by_question(items: Sequence[Item]) -> Iterable[tuple[Question, list[int]]]:
    """Questions in order, each with the indices of its turns."""
    found: dict[int | str, tuple[Question, list[int]]] = {}
    for index, item in enumerate(items):
        found.setdefault(item.question.question_id, (item.question, []))[1].append(index)
    return found.values()
