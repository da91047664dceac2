"""What a client is told where something is wrong, in OpenAI's form. Knows no web framework."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class ApiError(Exception):
    """An error with its HTTP status."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    """The field of the request that is wrong."""
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        return {
            "error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code},
        }

    def __str__(self) -> str:
        return self.message


def overloaded(message: str) -> ApiError:
    """The server cannot take the request now."""
    return ApiError(503, message, "server_error", code="overloaded", headers={"Retry-After": "1"})


def stopping() -> ApiError:
    return ApiError(
        503, "the server is shutting down", "server_error", code="shutting_down", headers={"Retry-After": "5"}
    )


def failed() -> ApiError:
    """Something of ours broke; what it was stands in the server's log."""
    return ApiError(500, "the server could not finish this answer", "server_error", code="internal_error")
