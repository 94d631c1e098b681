"""What the broker may say no with: exceptions whose text is written for the person asking.

Everything else that goes wrong is a fault of the broker and reaches people as a plain 500.
"""

from __future__ import annotations


class Refusal(Exception):
    """A refusal with an HTTP status, a word for programs, and a sentence for people."""

    def __init__(
        self, status: int, code: str, title: str, detail: str, field: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.field = field


def invalid(field: str, detail: str) -> Refusal:
    """The input ``field`` is wrong."""
    return Refusal(422, "invalid", "The request is not valid", detail, field)


def not_found(what: str, id: str) -> Refusal:
    """No such thing, or one that belongs to somebody else: the answer is the same."""
    return Refusal(404, "not_found", "Not found", f"There is no {what} {id!r} of yours.")


def forbidden(detail: str, field: str | None = None) -> Refusal:
    """The caller is known and may not."""
    return Refusal(403, "forbidden", "Not allowed", detail, field)


def over_quota(detail: str, field: str) -> Refusal:
    """A limit of the person is reached."""
    return Refusal(403, "gpu_quota", "Over your GPU quota", detail, field)


def no_capacity(detail: str) -> Refusal:
    """No GPU has that much free at this moment."""
    return Refusal(409, "gpu_capacity", "Not enough GPU free", detail)


def conflict(code: str, detail: str) -> Refusal:
    """The thing is in a state that does not allow it."""
    return Refusal(409, code, "Not possible now", detail)


def unavailable(detail: str) -> Refusal:
    """A part the broker needs cannot be reached; asking again may help."""
    return Refusal(503, "unavailable", "Not available now", detail)
