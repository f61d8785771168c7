"""The `release` command: from a digest to a verdict, by Git commits."""

from __future__ import annotations

import signal
from types import FrameType

import typer

from release.commands.changes import hold, image, model, promote, rollback, weights
from release.commands.review import affected, diff, validate
from release.commands.setup import doctor, new, version
from release.commands.state import describe, history, status, verify

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
registry_app = typer.Typer(no_args_is_help=True, help="The registry that images are pushed to.")
registry_app.command("create")(doctor.registry_create)

# In this order they stand in the help.
app.command("version")(version.version_command)
app.command("doctor")(doctor.doctor)
app.command("promote")(promote.promote)
app.command("rollback")(rollback.rollback)
app.command("reconcile")(rollback.reconcile)
app.command("validate")(validate.validate_command)
app.command("diff")(diff.diff_command)
app.command("comment")(diff.comment)
app.command("affected")(affected.affected)
app.command("verify")(verify.verify_command)
app.command("status")(status.status)
app.command("hold")(hold.hold)
app.command("unhold")(hold.unhold)
app.command("weights")(weights.weights)
app.command("history")(history.history_command)
app.command("metrics")(history.metrics_command)
app.add_typer(describe.app, name="describe")
app.add_typer(image.app, name="image")
app.add_typer(new.app, name="new")
app.add_typer(model.app, name="model")
app.add_typer(registry_app, name="registry")


def main() -> None:
    """Run the command; a failure is one sentence and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _terminated)
    app()


def _terminated(number: int, _: FrameType | None) -> None:
    """End in good order: keys in scratch folders and Jobs in the cluster are cleared away."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
