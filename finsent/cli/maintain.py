"""`finsent maintain`: removes what nothing needs any more; and what a home takes, of which age, which `status` shows."""

from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from finsent.cli.options import CommandResult, Settings, cli, examples
from finsent.cli.output import Renderable, key_values, section, table
from finsent.errors import FinsentError

if TYPE_CHECKING:
    from pathlib import Path

    from finsent.workspace import Workspace

_DAYS = click.IntRange(1, 36_500)  # a century: more days would leave the calendar


@cli.command(
    "maintain", epilog=examples("finsent maintain --dry-run", "finsent maintain --days 14", "finsent maintain --inbox-days 365")
)
@click.option("--days", type=_DAYS, default=30, show_default=True, metavar="N", help="Leave what is younger.")
@click.option("--inbox-days", type=_DAYS, metavar="N", help="Remove scored inbox rows that are older, too.")
@click.option(
    "--retention-days",
    type=click.IntRange(0, 36_500),
    default=7,
    show_default=True,
    metavar="N",
    help="Leave files of earlier table versions so long, for whoever reads them; less only while nothing else runs.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@click.pass_obj
def maintain_command(
    settings: Settings, days: int, inbox_days: int | None, retention_days: int, *, dry_run: bool
) -> CommandResult:
    """Remove what nothing needs any more.

    Folders of trainings and imports that are registered, or that ended before their first checkpoint; cached versions without an
    alias, which are fetched again when needed; what killed runs left; backups by `home move`. Registry, evidence, reports, data
    versions and unfinished trainings stay. Tables of many small files are compacted, and all but `tweets` vacuumed. With
    --inbox-days also inbox rows that were scored; predictions stay.
    """
    from finsent.steps.maintain import maintain

    done = maintain(settings.context(), days=days, inbox_days=inbox_days, retention_days=retention_days, dry_run=dry_run)
    rows = [(item.what, str(item.path), format_bytes(item.bytes)) for item in done.removed]
    upkeep = [
        (f"table {item.name}", item.problem or f"{item.merged} files merged, {item.removed} removed") for item in done.tables
    ]
    total = [
        *upkeep,
        ("would free" if dry_run else "freed", format_bytes(done.bytes)),
        *([("inbox rows", str(done.inbox_rows))] if inbox_days else []),
    ]
    if not (rows or upkeep or done.inbox_rows):
        return CommandResult(asdict(done), "Nothing to remove, compact or vacuum.")
    heading = "Would be removed" if dry_run else "Removed"
    text = section(heading, table(("what", "path", "size"), rows) if rows else "", key_values(total))
    return CommandResult(asdict(done), text, code=2 if done.problems else 0)


def disk_parts(home: "Workspace") -> dict[str, int]:
    """Bytes that each part of the home takes on disk, the largest first; what takes nothing is left out."""
    from finsent.files import disk_use

    parts = sorted(home.root.iterdir()) if home.root.is_dir() else []
    sizes = {path.name: disk_use(path) for path in parts if not path.name.startswith(".")}
    return {name: size for name, size in sorted(sizes.items(), key=lambda part: -part[1]) if size}


def table_rows(home: "Workspace") -> list[dict[str, Any]]:
    """Size and age of each table by its log, without reading it, and when this home's maintenance last looked after it."""
    from finsent.data.table_schemas import SCHEMAS
    from finsent.data.table_upkeep import last_maintained, table_figures

    rows: list[dict[str, Any]] = []
    maintained = last_maintained(home)
    for name in SCHEMAS:
        try:
            found = table_figures(home, name)
        except FinsentError as error:
            rows.append({"name": name, "error": str(error)})
            continue
        if found is not None:
            rows.append({**asdict(found), "maintained_at": maintained.get(name)})
    return rows


def folder_ages(home: "Workspace") -> dict[str, dict[str, Any]]:
    """How much is in the folders of runs and logs, and when their oldest and newest entries were last changed."""
    return {path.name: found for path in (home.runs, home.root / "logs") if (found := _folder_age(path))}


def _folder_age(folder: "Path") -> dict[str, Any] | None:
    from finsent.files import disk_use

    changed = []
    for path in folder.glob("[!.]*"):
        with suppress(OSError):  # gone meanwhile, or a link to what is
            changed.append(path.stat().st_mtime)
    if not changed:
        return None
    changed.sort()
    oldest, newest = (datetime.fromtimestamp(time, UTC) for time in (changed[0], changed[-1]))
    return {"entries": len(changed), "bytes": disk_use(folder), "oldest": oldest, "newest": newest}


def render_storage(tables: list[dict[str, Any]], folders: dict[str, dict[str, Any]]) -> Renderable:
    """Both as two small tables."""
    columns = ("table", "rows", "files", "size", "on disk", "versions", "last written (UTC)", "maintained (UTC)")
    rows = [
        (
            item["name"],
            "-" if item["rows"] is None else f"{item['rows']:,}",
            str(item["files"]),
            format_bytes(item["bytes"]),
            "-" if item["disk_bytes"] is None else format_bytes(item["disk_bytes"]),
            f"{'?' if item['oldest_version'] is None else item['oldest_version']} to {item['newest_version']}",
            f"{item['written_at']:%Y-%m-%d %H:%M}",
            str(item["maintained_at"] or "never")[:16].replace("T", " "),
        )
        for item in tables
        if "error" not in item
    ]
    broken = [f"  - {item['error']}" for item in tables if "error" in item]
    ages = [
        (name, str(found["entries"]), format_bytes(found["bytes"]), f"{found['oldest']:%Y-%m-%d}", f"{found['newest']:%Y-%m-%d}")
        for name, found in folders.items()
    ]
    return section(
        "Tables and folders",
        table(columns, rows) if rows else "",
        *broken,
        table(("folder", "entries", "size", "oldest", "newest"), ages) if ages else "",
    )


def format_bytes(size: int) -> str:
    """`1.5 GiB`, `12 KiB`."""
    amount, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
