"""What clients may ask for: OpenAI's request bodies, and what of them is refused by name. Knows no model.

Fields that change nothing here (`user`, `metadata`, ...) are accepted; fields that would change the answer and that
nobody reads are refused, so that no client believes in a setting that was dropped.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from specbound.serve.errors import ApiError

MOST_CHOICES = 128
MOST_STOPS = 16
MOST_SEED = 2**62
MOST_BEST = 20
"""Tokens that are told at each place of an answer."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "function_call": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "web_search_options": (None,),
    "suffix": (None, ""),
    "echo": (None, False),
    "best_of": (None, 1),
}
"""Fields of OpenAI's that this server does not honour, with the values that ask for nothing."""
IGNORED = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"),
    "prompt_cache_retention",
)
"""Fields of OpenAI's that do not change an answer here."""


class StreamOptions(BaseModel):
    """How a stream looks."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(BaseModel):
    """What both endpoints take."""

    model_config = ConfigDict(extra="forbid")

    model: str
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0)] = None
    """Not OpenAI's; others' servers have it."""
    seed: Annotated[int | None, Field(ge=-MOST_SEED, le=MOST_SEED)] = None
    stop: str | list[str] | None = None
    n: Annotated[int | None, Field(ge=1, le=MOST_CHOICES)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_what_asks_for_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for name, neutral in NEUTRAL.items():
            if name in given and given[name] not in neutral:
                raise ValueError(f"{name} is not supported by this server")
        return {name: value for name, value in given.items() if name not in NEUTRAL and name not in IGNORED}

    @model_validator(mode="after")
    def _checked(self) -> "Asked":
        if len(self.stops) > MOST_STOPS or "" in self.stops:
            raise ValueError(f"stop must be at most {MOST_STOPS} texts, none of them empty")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed where stream is true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def num_choices(self) -> int:
        return self.n if self.n is not None else 1

    @property
    def most_tokens(self) -> int | None:
        """Of an answer; None leaves it to the server."""
        return self.max_tokens

    @property
    def num_best(self) -> int | None:
        """Most probable tokens to be told at each place, beside the chance of the chosen one; None tells nothing."""
        return None

    @property
    def includes_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Asked):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=MOST_BEST)] = None

    @model_validator(mode="after")
    def _asks_for_chances(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is only allowed where logprobs is true")
        return self

    @property
    def num_best(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(Asked):
    """`/v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: Annotated[int | None, Field(ge=0, le=MOST_BEST, strict=True)] = None

    @property
    def num_best(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each a text or token ids, at least one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [each for each in self.prompt if isinstance(each, int)]
        return [tokens] if tokens else [each for each in self.prompt if not isinstance(each, int)]

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_tokens is not None else 16  # OpenAI's own default


A = TypeVar("A", bound=Asked)


def parsed(body: bytes, kind: type[A]) -> A:
    """The request that a body holds. Raises ApiError (400) that names the field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            raise ApiError(400, f"the body must be JSON: {text}", code="invalid_json") from None
        param = place.split(".")[0] or text.split(" ")[0]
        message = f"unknown field {place!r}" if first["type"] == "extra_forbidden" else f"{place}: {text}".lstrip(": ")
        raise ApiError(400, message, param=param or None) from None
