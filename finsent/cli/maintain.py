"""`finsent maintain`: removes what nothing needs any more; `disk_parts`, what a home takes on disk, which `status` shows."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from finsent.cli.options import CommandResult, Settings, cli, examples
from finsent.cli.output import key_values, section, table

if TYPE_CHECKING:
    from finsent.workspace import Workspace

_DAYS = click.IntRange(1, 36_500)  # a century: more days would leave the calendar


@cli.command(
    "maintain", epilog=examples("finsent maintain --dry-run", "finsent maintain --days 14", "finsent maintain --inbox-days 365")
)
@click.option("--days", type=_DAYS, default=30, show_default=True, metavar="N", help="Leave what is younger.")
@click.option("--inbox-days", type=_DAYS, metavar="N", help="Remove scored inbox rows that are older, too.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@click.pass_obj
def maintain_command(settings: Settings, days: int, inbox_days: int | None, *, dry_run: bool) -> CommandResult:
    """Remove what nothing needs any more.

    Folders of trainings and imports that are registered, or that ended before their first checkpoint; cached versions without an
    alias, which are fetched again when needed; what killed runs left; backups by `home move`. Registry, evidence, reports, data
    versions and unfinished trainings stay. Tables of many small files are compacted, and all but `tweets` vacuumed. With
    --inbox-days also inbox rows that were scored; predictions stay.
    """
    from finsent.steps.maintain import maintain

    done = maintain(settings.context(), days=days, inbox_days=inbox_days, dry_run=dry_run)
    rows = [(item.what, str(item.path), format_bytes(item.bytes)) for item in done.removed]
    upkeep = [
        (f"table {item.name}", item.problem or f"{item.merged} files merged, {item.removed} removed") for item in done.tables
    ]
    failed = any(item.problem for item in done.tables)
    total = [
        *upkeep,
        ("would free" if dry_run else "freed", format_bytes(done.bytes)),
        *([("inbox rows", str(done.inbox_rows))] if inbox_days else []),
    ]
    heading = "Would be removed" if dry_run else "Removed"
    text = section(heading, table(("what", "path", "size"), rows) if rows else "", key_values(total))
    return CommandResult(asdict(done), text, code=2 if failed else 0)


def disk_parts(home: "Workspace") -> dict[str, int]:
    """Bytes that each part of the home takes on disk, the largest first; what takes nothing is left out."""
    from finsent.files import disk_use

    parts = sorted(home.root.iterdir()) if home.root.is_dir() else []
    sizes = {path.name: disk_use(path) for path in parts if not path.name.startswith(".")}
    return {name: size for name, size in sorted(sizes.items(), key=lambda part: -part[1]) if size}


def format_bytes(size: int) -> str:
    """`1.5 GiB`, `12 KiB`."""
    amount, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
