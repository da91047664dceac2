"""What is asked of a passage: eight kinds of task, several wordings each. Reads no file."""

import random
import re
from collections.abc import Callable

LANGUAGES = ("German", "French", "Spanish", "Italian", "Portuguese")

WORDINGS = {
    "summarise": (
        "Summarize the following text in {few} sentences.\n\n{passage}",
        "{passage}\n\nGive a short summary of the text above.",
        "Write a one-sentence summary of this passage:\n\n{passage}",
        "What are the main points of the following text? Answer as a list.\n\n{passage}",
    ),
    "continue": (
        "Continue this text in the same style.\n\n{passage}",
        "Write the next paragraph of this story:\n\n{passage}",
        "{passage}\n\nWhat could happen next? Write about {many} words.",
    ),
    "explain": (
        "Explain the following passage to a ten-year-old.\n\n{passage}",
        "What does this passage mean? Explain it in plain words.\n\n{passage}",
        "{passage}\n\nExplain why the author might have written this.",
    ),
    "translate": (
        "Translate to {language}: {sentence}",
        "Translate the following text into {language}.\n\n{sentence}",
        "How would you say this in {language}?\n\n{sentence}",
    ),
    "extract": (
        "List all names of people and places in this text.\n\n{passage}",
        "{passage}\n\nFind the facts about {name} in the text above and list them.",
        "Extract who does what from the following text, as lines of the form WHO: WHAT.\n\n{passage}",
        "Copy the sentences that mention {name} from this text:\n\n{passage}",
    ),
    "rewrite": (
        "Rewrite the following text in modern, simple English.\n\n{passage}",
        "Rewrite this text in the present tense:\n\n{passage}",
        "Correct the grammar and the punctuation of this text and write it out again.\n\n{passage}",
        "Make this text shorter, but keep its wording where you can:\n\n{passage}",
    ),
    "question": (
        "Read the passage and answer the question.\n\nPassage: {passage}\n\nQuestion: What does the passage say about "
        "{name}?",
        "{passage}\n\nBased on the text above: who or what is {name}, and what happens?",
        "Answer with words from the text only. Text: {passage}\n\nQuestion: What is said of {name}?",
    ),
    "retrieval": (
        "Answer the question using the documents below.\n\nDocument [1] {passage}\n\nDocument [2] {other}\n\nQuestion: "
        "What do the documents say about {name}?",
        "Here are two passages.\n\n[1] {passage}\n\n[2] {other}\n\nWhich of them mentions {name}, and what does it "
        "say?",
    ),
}
"""Kind of task -> wordings."""

NAME = re.compile(r"(?<![.!?\"”'] )(?<!^)\b[A-Z][a-z]{2,}(?: [A-Z][a-z]+)*\b")
"""Capitalised words inside a sentence."""


def needs_two(kind: str) -> bool:
    """Whether a task takes a second passage of the same document."""
    return kind == "retrieval"


def written(kind: str, passage: str, other: str, rng: random.Random) -> str | None:
    """A prompt of a kind on a passage, wording and details drawn; None where the passage lacks what is asked for."""
    wording = rng.choice(WORDINGS[kind])
    found = NAME.findall(passage)
    if "{name}" in wording and not found:
        return None
    details: dict[str, Callable[[], str]] = {
        "passage": lambda: passage,
        "other": lambda: other,
        "sentence": lambda: _sentences(passage),
        "name": lambda: rng.choice(found),
        "language": lambda: rng.choice(LANGUAGES),
        "few": lambda: rng.choice(("two", "three")),
        "many": lambda: rng.choice(("50", "80", "120")),
    }
    return wording.format(**{name: make() for name, make in details.items() if f"{{{name}}}" in wording})


def _sentences(passage: str) -> str:
    """The first sentences of a passage, about 30 words."""
    words, taken = 0, list[str]()
    for sentence in re.split(r"(?<=[.!?]) ", " ".join(passage.split())):
        taken.append(sentence)
        words += len(sentence.split())
        if words >= 20:
            break
    return " ".join(taken)
