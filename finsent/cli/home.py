"""`finsent home`: settles a home that was copied, moved or restored from a backup."""

from pathlib import Path

import click

from finsent.cli.options import CommandResult, Settings, cli, examples
from finsent.cli.output import key_values, section
from finsent.cli.services_file import find_mlflow
from finsent.errors import InputError
from finsent.files import locked


@cli.group("home", epilog=examples("finsent home move --home /srv/finsent/restored"))
def home_group() -> None:
    """Settle a home that was copied, moved or restored."""


@home_group.command(
    "move", epilog=examples("finsent home move --home /srv/finsent/restored", "finsent home move --from /old/place/artifacts")
)
@click.option(
    "--from", "source", type=Path, metavar="FOLDER", help="Folder that was copied to `mlartifacts`, if it was not called so."
)
@click.pass_obj
def move_command(settings: Settings, source: Path | None) -> CommandResult:
    """Make the home use its own artifacts.

    MLflow keeps each artifact's place as a full path. After its folder was copied, moved or restored a home refuses to work
    until this has rewritten the paths in its store (mlflow.db), in one transaction; the store as it was stays beside it.
    """
    from finsent.registry.relocation import move_locations

    home = settings.home()
    server = find_mlflow(home.root)
    if server is not None and server.problem is None:
        raise InputError(f"`finsent up` runs in this home, with the store open: {server.url}. Stop it first.")
    with locked(home.lock("mlflow"), 10, "another process prepares this home's MLflow store. Try again."):
        done = move_locations(home, source.expanduser().absolute() if source else None)
    facts = [("changed", f"{done.changed} artifact locations"), ("were in", ", ".join(done.was)), ("backup", str(done.backup))]
    missing = f"  Not in this home: the artifacts of {', '.join(done.missing)}. Copy them here too." if done.missing else ""
    return CommandResult(done, section(f"Home {done.home} uses its own artifacts", key_values(facts), missing))
