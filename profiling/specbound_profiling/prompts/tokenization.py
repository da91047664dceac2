"""Prompts as token ids that fit the model, by its chat template where it has one. Knows no log."""

import logging
from collections.abc import Sequence

from torch import Tensor

from specbound.decoding.decoder import SpecBoundDecoder
from specbound.decoding.greedy_twin import greedy_twin
from specbound.decoding.model.adapter import ModelAdapter
from specbound.models.loading import LoadedModel, chat_ids, has_chat_template
from specbound_controller.errors import InputError
from specbound_profiling.prompts.files import Prompt
from specbound_profiling.prompts.loops import loop_cut

logger = logging.getLogger(__name__)

MANY_CHARACTERS = 2**20
"""Longer texts are cut before they are tokenised where the model reads only their end: millions of tokens take minutes
and gigabytes."""
CHARACTERS_PER_TOKEN = 64
"""No text has so many, on average over as many tokens as a model has positions."""


def text_ids(text: str, loaded: LoadedModel, what: str) -> Tensor:
    """Token ids of a text, (1, T) int64.

    what: whose text it is, for errors.

    Raises:
        InputError: it has no tokens, or one that the model's embedding has no row for.
    """
    return known_ids(loaded.tokenizer(text, return_tensors="pt")["input_ids"], loaded, what)


def known_ids(ids: Tensor, loaded: LoadedModel, what: str) -> Tensor:
    """The same ids, (1, T). Raises as `text_ids` does."""
    if ids.shape[1] == 0:
        raise InputError(f"{what} must have at least one token, got none")
    num_rows = loaded.model.get_input_embeddings().num_embeddings
    largest = int(ids.max())
    if largest >= num_rows:
        raise InputError(
            f"{what} has the token {loaded.tokenizer.convert_ids_to_tokens(largest)!r}, number {largest}, but the "
            f"embedding of model {loaded.name!r} has {num_rows}: tokenizer and model do not belong together"
        )
    return ids


def tokenize_prompts(
    prompts: Sequence[Prompt],
    loaded: LoadedModel,
    adapter: ModelAdapter,
    max_new_tokens: int,
    is_raw: bool = False,
    exactness: str = "token",
) -> list[Tensor]:
    """Ids of each prompt, (1, T) int64 on the CPU.

    A prompt too long for the model keeps its last tokens, so that `max_new_tokens` more have room; this is logged.

    Args:
        is_raw: take texts as they stand, also where there is a chat template.
        exactness: kernels on which the model answers the earlier turns of conversations: greedily, at most
            `max_new_tokens` tokens, cut where they begin to loop.

    Raises:
        InputError: a prompt without tokens, or with one that the model does not know, or a model without room for one
            token of a prompt.
    """
    longest = None if adapter.max_positions is None else adapter.max_positions - max_new_tokens
    if longest is not None and longest < 1:
        raise InputError(
            f"max_new_tokens must be < {adapter.max_positions}, the positions of the model, got {max_new_tokens}"
        )
    reader = _Reader(loaded, longest, max_new_tokens, is_raw, exactness)
    all_ids = [reader.ids(prompt) for prompt in prompts]
    if reader.cut:
        logger.warning("%d prompts are longer than %d tokens; their last tokens are used", len(reader.cut), longest)
    return all_ids


class _Reader:
    """Turns prompts into ids; remembers what the model answered."""

    def __init__(
        self, loaded: LoadedModel, longest: int | None, max_new_tokens: int, is_raw: bool, exactness: str
    ) -> None:
        self.loaded, self.longest, self.max_new_tokens, self.exactness = loaded, longest, max_new_tokens, exactness
        self.is_chat = has_chat_template(loaded) and not is_raw
        self.cut: set[str] = set()
        """Prompts that were shortened."""
        self._answers: dict[tuple[str, ...], str] = {}
        self._decoder: SpecBoundDecoder | None = None

    def ids(self, prompt: Prompt) -> Tensor:
        """(1, T)"""
        text = self._shortened(prompt)
        ids = self._conversation((*prompt.earlier, text))
        known_ids(ids, self.loaded, f"prompt {prompt.prompt_id}")
        if self.longest is None or ids.shape[1] <= self.longest:
            return ids
        self.cut.add(prompt.prompt_id)
        return ids[:, -self.longest :]

    def _shortened(self, prompt: Prompt) -> str:
        """The end of a text that is far too long, all of it otherwise."""
        if self.longest is None or len(prompt.text) <= max(MANY_CHARACTERS, self.longest * CHARACTERS_PER_TOKEN):
            return prompt.text
        self.cut.add(prompt.prompt_id)
        return prompt.text[-self.longest * CHARACTERS_PER_TOKEN :]

    def _conversation(self, turns: tuple[str, ...]) -> Tensor:
        """What the user and the model said in turn, the user last. (1, T)"""
        said = [turns[0]]
        for number in range(1, len(turns)):
            said += [self._answer(turns[:number]), turns[number]]
        if not self.is_chat:
            return self.loaded.tokenizer("\n".join(said), return_tensors="pt")["input_ids"]
        roles = ("user", "assistant")
        return chat_ids(self.loaded, [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)])

    def _answer(self, turns: tuple[str, ...]) -> str:
        if turns not in self._answers:
            ids = self._conversation(turns)
            ids = ids if self.longest is None else ids[:, -self.longest :]
            if self._decoder is None:
                twin = greedy_twin(self.loaded.model)
                level = self.loaded.compression
                self._decoder = SpecBoundDecoder(twin, None, level, record_steps=False, exactness=self.exactness)
            output = self._decoder.decode([ids], max_new_tokens=self.max_new_tokens, do_sample=False)
            tokens = output.sequences[0, ids.shape[1] :].tolist()
            self._answers[turns] = self.loaded.tokenizer.decode(tokens[: loop_cut(tokens)], skip_special_tokens=True)
        return self._answers[turns]
