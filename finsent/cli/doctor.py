"""`finsent doctor`: whether this machine can do the work (packages, memory, disk, GPU, servers, base model), and remedies."""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from finsent.cli.options import CommandResult, Settings, cli, examples
from finsent.cli.output import lines, section, stack, status_word, table
from finsent.cli.services_file import answers, prefect_answers, read_services
from finsent.config import Config
from finsent.home import Home

if TYPE_CHECKING:
    from rich.console import RenderableType

State = Literal["ok", "warn", "fail"]
GIB = 1 << 30

CEILINGS = {
    "fastapi": ((0, 151), "Prefect's server does not start with newer ones"),
    "sqlalchemy": ((2, 1), "with newer ones Prefect's schedules never fire, without an error"),
}
"""Packages whose later releases break something silently: first version that does, and what breaks."""
NEEDED = ("torch", "transformers", "peft", "accelerate", "mlflow", "prefect", "deltalake", "evaluate")
INSTALL = "Install the tested set: pip install -c constraints.txt ..., or `make setup`."


@dataclass(frozen=True)
class DoctorCheck:
    """One check, its result and the remedy."""

    name: str
    state: State
    found: str
    advice: str = ""


@cli.command("doctor", epilog=examples("finsent doctor", "finsent doctor --profile llama-3.1-8b --json"))
@click.pass_obj
def doctor_command(settings: Settings) -> CommandResult:
    """Check that this machine can do the work.

    Checks packages, memory, disk, GPU, servers and base model. Exit code 1 on a failure.
    """
    checks = run_checks(settings)
    failed = any(check.state == "fail" for check in checks)
    return CommandResult({"ok": not failed, "checks": checks}, render_checks(checks), code=1 if failed else 0)


def run_checks(settings: Settings) -> list[DoctorCheck]:
    """All checks; none changes anything."""
    config, home = settings.config(), settings.home()
    groups = (_python, _packages, _hardware, _storage, _servers, _base_model)
    return [check for group in groups for check in group(config, home)]


def render_checks(checks: list[DoctorCheck]) -> "RenderableType":
    """One line a check, and below them what to do."""
    rows = [(status_word(check.state), check.name, check.found) for check in checks]
    todo = [f"  {check.name}: {check.advice}" for check in checks if check.advice and check.state != "ok"]
    return stack(table(("", "check", "found"), rows), section("What to do", lines(*todo)) if todo else "Nothing to do.")


def _python(config: Config, home: Home) -> Iterator[DoctorCheck]:  # noqa: ARG001 - every group of checks takes both
    found = ".".join(map(str, sys.version_info[:3]))
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield DoctorCheck("python", "ok" if good else "fail", found, "" if good else "Use Python 3.11, 3.12 or 3.13.")


def _packages(config: Config, home: Home) -> Iterator[DoctorCheck]:  # noqa: ARG001
    for name, (ceiling, breaks) in CEILINGS.items():
        found = _version(name)
        if found is None:
            yield DoctorCheck(name, "fail", "not installed", INSTALL)
            continue
        numbers = tuple(int(part) for part in found.split(".")[:2])
        limit = ".".join(map(str, ceiling))
        good = numbers < ceiling
        yield DoctorCheck(name, "ok" if good else "fail", found, "" if good else f"{breaks}: pip install '{name}<{limit}'.")
    versions = {name: _version(name) for name in NEEDED}
    missing = [name for name, found in versions.items() if found is None]
    listed = ", ".join(f"{name} {found}" for name, found in versions.items() if found)
    yield DoctorCheck("packages", "fail" if missing else "ok", f"missing: {', '.join(missing)}" if missing else listed, INSTALL)
    yield _bitsandbytes()


def _bitsandbytes() -> DoctorCheck:
    try:
        import bitsandbytes
    except Exception as error:  # noqa: BLE001 - a broken native library raises anything; the check reports it
        return DoctorCheck(
            "bitsandbytes", "fail", f"does not import: {type(error).__name__}: {error}", f"4-bit bases need it. {INSTALL}"
        )
    return DoctorCheck("bitsandbytes", "ok", str(bitsandbytes.__version__))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _hardware(config: Config, home: Home) -> Iterator[DoctorCheck]:  # noqa: ARG001
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield DoctorCheck("cores", "ok", str(cores))
    total, free = _memory()
    little = free < 2 * GIB
    yield DoctorCheck(
        "memory", "warn" if little else "ok", f"{total / GIB:.1f} GiB, {free / GIB:.1f} free", "Training nano takes about 2 GiB."
    )
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        yield DoctorCheck("gpu", "ok", f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB")
        return
    small = config.model.embedded is not None or "MiniLM" in config.model.name
    advice = f"Training {config.model.name!r} without a GPU takes days. Use --profile nano, or a machine with a GPU."
    yield DoctorCheck("gpu", "ok" if small else "warn", "none", "" if small else advice)


def _memory() -> tuple[int, int]:
    """Bytes in total and free, within the container's limit where there is one."""
    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (said := limit.read_text(encoding="ascii").strip()) != "max":
        total = min(total, int(said))
        free = min(free, total - int(used.read_text(encoding="ascii")))
    return total, free


def _storage(config: Config, home: Home) -> Iterator[DoctorCheck]:  # noqa: ARG001
    existing = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    writable = os.access(existing, os.W_OK | os.X_OK) and existing.is_dir()
    advice = "" if writable else f"{str(existing)!r} cannot be written: choose another with --home or FINSENT_HOME."
    yield DoctorCheck("home", "ok" if writable else "fail", str(home.root), advice)
    free = shutil.disk_usage(existing).free / GIB
    state: State = "fail" if free < 1 else "warn" if free < 5 else "ok"
    yield DoctorCheck("disk", state, f"{free:.1f} GiB free", "Make room: bases, checkpoints and the MLflow store grow here.")


def _servers(config: Config, home: Home) -> Iterator[DoctorCheck]:  # noqa: ARG001
    from finsent.registry.tracking import public_uri

    uri = home.tracking_uri
    if uri.startswith("http"):
        up = answers(f"{uri.rstrip('/')}/health", timeout=5)
        yield DoctorCheck(
            "mlflow",
            "ok" if up else "fail",
            public_uri(uri),
            "" if up else "It does not answer: start it, or correct MLFLOW_TRACKING_URI.",
        )
    else:
        yield DoctorCheck("mlflow", "ok", f"no server, the store itself: {public_uri(uri)}")
    running = read_services(home.root)
    api = os.environ.get("PREFECT_API_URL") or (running.prefect_api if running else None)
    if api is None:
        yield DoctorCheck("prefect", "ok", "no server; flows start a temporary one")
    else:
        up = prefect_answers(api)
        yield DoctorCheck(
            "prefect", "ok" if up else "fail", api, "" if up else "It does not answer: start it, or correct PREFECT_API_URL."
        )


def _base_model(config: Config, home: Home) -> Iterator[DoctorCheck]:  # noqa: ARG001
    name = config.model.name
    if config.model.embedded is not None:
        yield DoctorCheck("base model", "ok", "embedded, built on the spot")
        return
    folder = Path(name).expanduser()
    if folder.is_dir():
        whole = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
        advice = "" if whole else "The folder lacks config.json or *.safetensors."
        yield DoctorCheck("base model", "ok" if whole else "fail", str(folder), advice)
        return
    yield _hub_model(name, config.model.revision)


def _hub_model(name: str, revision: str | None) -> DoctorCheck:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        cached: Any = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return DoctorCheck("base model", "fail", f"{name!r} is neither a folder nor a Hub id", "Correct model.name.")
    if isinstance(cached, str):
        return DoctorCheck("base model", "ok", f"{name}, in the Hub cache")
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    advice = "The first training fetches it from the Hub (gated models need HF_TOKEN)."
    if offline:
        advice = "HF_HUB_OFFLINE is set: fetch it where there is a network, or set model.name to a local folder."
    return DoctorCheck("base model", "fail" if offline else "warn", f"{name}, not in the Hub cache", advice)
