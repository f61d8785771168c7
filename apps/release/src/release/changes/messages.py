"""What a commit that changes an environment says of itself."""

from __future__ import annotations

from collections.abc import Sequence

from release.changes.transaction import Row
from release.git import message as msg
from release.values import holds
from release.values.references import Model


def model_text(model: Model) -> str:
    """A model for tables and trailers: ``digits/3@sha256:…``, or nothing."""
    return f"{model.short}@sha256:{model.sha256}" if model.deployed else ""


def deployment_message(
    operation: str, environment: str, rows: Sequence[Row], revisions: Sequence[str]
) -> msg.Message:
    """The message of a commit that changes what runs."""
    releases = list(dict.fromkeys(row.release for row in rows))
    trailers = [
        (msg.OPERATION, operation),
        (msg.ENVIRONMENT, environment),
        (msg.SERVICES, msg.names(releases)),
        *((msg.REVISION, revision) for revision in revisions),
        *(
            (
                msg.IMAGE if row.kind == "image" else msg.MODEL,
                f"{row.release} {row.old or 'none'} -> {row.new or 'none'}",
            )
            for row in rows
        ),
    ]
    verb = {
        "image set": "Deploy",
        "model set": "Deploy the model of",
        "model remove": "Remove a model of",
        "promote": "Promote",
    }
    subject = f"{environment}: {verb.get(operation, operation.capitalize())} {msg.names(releases)}"
    if len(revisions) == 1:
        subject += f" at {revisions[0][:12]}"
    return msg.Message(subject, trailers)


def hold_message(
    operation: str, environment: str, services: Sequence[str], reason: str
) -> msg.Message:
    """The message of a commit that changes holds only."""
    what = "everything" if holds.EVERY in services else msg.names(services)
    return msg.Message(
        f"{environment}: {operation.capitalize()} {what}",
        [
            (msg.OPERATION, operation),
            (msg.ENVIRONMENT, environment),
            (msg.SERVICES, msg.names(services)),
            *([(msg.REASON, reason)] if reason else []),
        ],
    )
