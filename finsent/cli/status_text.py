"""The text of `finsent status`: all parts, one section each. A part that cannot be read shows its `error`."""

from datetime import UTC, datetime
from typing import Any

from finsent.cli.maintain import format_bytes, render_storage
from finsent.cli.operations_status import render_operations
from finsent.cli.output import Renderable, cell_text, key_values, lines, section, shorten, stack, table
from finsent.cli.render import render_inbox_faults
from finsent.cli.render_data import leak_audit
from finsent.cli.services_file import password_hint


def render_status(status: dict[str, Any]) -> Renderable:
    """All parts, one section each; first what is wrong, or, where servers are known, that nothing is."""
    services = [(name, _service(service)) for name, service in status["services"].items()]
    return stack(
        _render_problems(status),
        f"Home {status['home']}",
        _render_data(status["data"]),
        _render_versions(status["versions"], status["champion_problem"]),
        _render_decisions(status["decisions"]),
        section("Scoring", key_values(status["scoring"].items())),
        render_inbox_faults(status["inbox_faults"]),
        section("Services", key_values(services), f"  {password_hint(status['home'])}" if status["password"] else ""),
        render_operations(status["operations"]),
        render_storage(status["tables"], status["folders"]) if status["tables"] or status["folders"] else "",
        section(
            "Disk (finsent maintain frees some)", key_values((name, format_bytes(size)) for name, size in status["disk"].items())
        ),
    )


def _render_problems(status: dict[str, Any]) -> Renderable:
    if status["problems"]:
        return section("NOT OK", *(f"  - {problem}" for problem in status["problems"]))
    return section("OK") if status["operations"] else ""


def _render_data(data: dict[str, Any]) -> Renderable:
    if data["version"] is None:
        return f"Data: {data['error']}"
    audit = "  " + leak_audit(data["leaks"], data["naive_leak"])
    return section(f"Data version {data['version']}", key_values(data["rows"].items()), audit)


def _render_versions(versions: dict[str, Any], problem: str | None) -> Renderable:
    if "error" in versions:
        return f"Versions: {versions['error']}"
    wrong = f"CHAMPION REFUSED: {problem}" if problem else ""
    if not versions and problem:
        return f"Versions: {wrong}"
    if not versions:
        return "Versions: no champion yet (finsent train, finsent evaluate, finsent promote)"
    rows = [(alias, found["version"], found["accuracy"], found["macro_f1"]) for alias, found in versions.items()]
    waits = versions.get("challenger")
    note = f"  {_waiting(waits['version'], waits['approval_expires_at'])}" if waits else ""
    return section("Versions", table(("alias", "version", "accuracy", "macro-F1"), rows), lines(note, wrong))


def _waiting(version: str, until: str | None) -> str:
    again = f"finsent promote --version {version} asks anew"
    if until is None:
        return f"Version {version} cannot be approved any more: {again}."
    hours = (datetime.fromisoformat(until) - datetime.now(UTC)).total_seconds() / 3600
    if hours <= 0:
        return f"Version {version} waited for approval until {until[:16]} UTC: {again}."
    return f"Version {version} waits for approval (finsent approve | reject), for {hours:.1f} h more."


def _render_decisions(decisions: dict[str, Any]) -> Renderable:
    if "error" in decisions:
        return f"Decisions: {decisions['error']}"
    if not decisions["last"]:
        return "Decisions: none yet"
    rows = [
        (
            cell_text(entry.get("seq")),
            entry["at"][:19],
            entry["version"],
            entry["action"],
            entry["outcome"],
            shorten(" ".join(entry.get("reasons", ()))),
        )
        for entry in decisions["last"]
    ]
    agrees = " and agrees with the registry" if decisions["agrees"] else ""
    heading = f"Decisions ({decisions['entries']} in the audit log, its chain verifies{agrees})"
    return section(heading, table(("entry", "at (UTC)", "version", "action", "decision", "because"), rows))


def _service(service: dict[str, Any]) -> str:
    if service["url"] is None:
        return "none, working in the home directly"
    return f"{service['url']} ({'answers' if service['answers'] else 'NOT USED: it ' + service['problem']})"
