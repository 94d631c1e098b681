"""The audit: one row for each thing somebody did. Written in the transaction that does it."""

from __future__ import annotations

import json

from sqlalchemy.orm import Session

from gpu_broker.store.tables import Audit


def record(
    session: Session, now: float, actor: str, action: str, subject: str, **detail: object
) -> None:
    """Adds a row. ``detail`` holds plain facts; never a key or token."""
    session.add(
        Audit(
            at=now,
            actor=actor[:255],
            action=action,
            subject=subject[:255],
            detail=json.dumps(detail, sort_keys=True),
        )
    )
