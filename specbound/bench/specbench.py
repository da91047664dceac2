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
from specbound.models.loading import LoadedModel, chat_ids
from specbound_profiling.prompts.files import Prompt, load_prompts
from specbound_profiling.prompts.loops import loop_cut
from specbound_profiling.prompts.tokenization import tokenize_prompts

MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
"""Categories that Spec-Bench's own tables show as one, `mt_bench`."""

PlainRun = Callable[[TimedPrompt], list[int]]
"""Plain decoding's new tokens of one prompt."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, or several turns of a conversation."""

    question_id: int | str
    category: str
    turns: tuple[str, ...]
    """What the user says, one after another."""
    is_conversation: bool = False
    """Whether the chat template applies, where there is one: a question of Spec-Bench."""

    @property
    def task(self) -> str:
        """Kind of content, as tables show it."""
        return "mt_bench" if self.is_conversation and self.category in MT_BENCH else self.category


@dataclass(frozen=True, slots=True)
class Item:
    """One turn of a question, ready to be decoded."""

    question: Question
    prompt: TimedPrompt
    is_loop_cut: bool
    """Whether the limit stands where plain decoding begins to loop."""


def load_questions(source: str, num_prompts: int | None) -> list[Question]:
    """Questions of a source that `load_prompts` knows; those of Spec-Bench's form with all their turns.

    Raises InputError as `load_prompts` does.
    """
    return [_question(prompt) for prompt in load_prompts(source, num_prompts)]


def _question(prompt: Prompt) -> Question:
    is_number = re.fullmatch("0|[1-9][0-9]{0,17}", prompt.prompt_id) is not None  # 81, as Spec-Bench counts; not 007
    question_id = int(prompt.prompt_id) if is_number else prompt.prompt_id
    return Question(question_id, prompt.task, prompt.turns or (prompt.text,), is_conversation=bool(prompt.turns))


def items_of(
    questions: Sequence[Question],
    loaded: LoadedModel,
    adapter: ModelAdapter,
    plain: PlainRun,
    max_new_tokens: int,
    sampling: Mapping[str, Any],
) -> list[Item]:
    """Every turn as token ids, with a limit where plain decoding's answer begins to loop.

    sampling: arguments of the decoder that choose the tokens; every further turn's seed is one higher.
    """
    items: list[Item] = []
    for question in questions:
        said: list[str] = []
        for number, turn in enumerate(question.turns):
            said.append(turn)
            name = str(question.question_id) if len(question.turns) == 1 else f"{question.question_id}/{number + 1}"
            ids = _ids(name, question, said, loaded, adapter, max_new_tokens)
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
) -> Tensor:
    """(1, T): user's and model's texts in turn, by the chat template of a question where the tokenizer has one."""
    if not question.is_conversation or loaded.tokenizer.chat_template is None:
        return tokenize_prompts([Prompt(name, question.task, "\n".join(said))], loaded, adapter, max_new_tokens)[0]
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
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)


def _by_question(items: Sequence[Item]) -> Iterable[tuple[Question, list[int]]]:
    """Questions in order, each with the indices of its turns."""
    found: dict[int | str, tuple[Question, list[int]]] = {}
    for index, item in enumerate(items):
        found.setdefault(item.question.question_id, (item.question, []))[1].append(index)
    return found.values()
