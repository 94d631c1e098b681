"""How the hub is told that a server will not start with the GPU asked for.

A refusal is an answer, not a fault: JupyterHub 6 knows ``SpawnException`` for that and keeps
refused spawns out of ``consecutive_failure_limit``. JupyterHub 5 gets the same as an HTTP error.
"""

from __future__ import annotations

from typing import Any

from tornado import web

from gpu_broker.client import BrokerError, Unavailable

try:
    from jupyterhub.spawner import SpawnException
except ImportError:  # JupyterHub 5

    class SpawnException(web.HTTPError):  # type: ignore[no-redef]
        """Says why a server does not start; as in JupyterHub 6."""

        def __init__(
            self,
            message: str,
            *,
            reason: str,
            log_message: str = "",
            message_html: str = "",
            status_code: int = 400,
        ) -> None:
            self.message = message
            self.message_html = message_html
            super().__init__(status_code, log_message or message, reason=reason)


QUOTA, CAPACITY, INVALID, BROKER = "gpu_quota", "gpu_capacity", "gpu_invalid", "gpu_broker"


def refusal(message: str, reason: str, status: int) -> Any:
    """An exception whose text the hub shows on the spawn page, and in JSON to API callers.

    ``reason`` is the label in the hub's metrics; one word.
    """
    error = SpawnException(message, reason=reason, status_code=status)
    error.message = error.jupyterhub_message = message
    return error


def refused_by_broker(error: BrokerError) -> Any:
    """The broker's answer as a refusal. Names the field at fault, and what to do next."""
    message = error.detail
    if error.field:
        message = message if message.startswith(error.field) else f"{error.field}: {message}"
    else:
        message = message[:1].upper() + message[1:]
    message = message if message.endswith((".", "!", "?")) else message + "."
    if isinstance(error, Unavailable):
        return refusal(
            f"No GPU can be given now: {message} Start without a GPU, or try again soon.",
            BROKER,
            503,
        )
    if error.code in (QUOTA, CAPACITY):
        return refusal(message, error.code, error.status)
    reason = INVALID if error.field else BROKER
    return refusal(message, reason, error.status if 400 <= error.status < 500 else 400)
