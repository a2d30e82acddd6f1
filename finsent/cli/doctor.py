"""`finsent doctor`: whether this machine can do the work (packages, memory, disk, GPU, servers, base model), and remedies."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import click

from finsent.cli.access import find_access
from finsent.cli.options import CommandResult, Settings, cli, examples
from finsent.cli.output import Renderable, lines, section, stack, status_word, table
from finsent.cli.services_file import find_mlflow, find_prefect, is_healthy, services_path
from finsent.cli.status import registry_exists
from finsent.cli.surroundings import find_surroundings
from finsent.config import Config
from finsent.errors import CheckFailed, FinsentError
from finsent.steps.context import make_context
from finsent.workspace import Workspace

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


def _check(name: str, good: bool, found: str, advice: str = "", *, otherwise: State = "fail") -> DoctorCheck:
    """`ok` without advice where it is good, else the state `otherwise` with it."""
    return DoctorCheck(name, "ok", found) if good else DoctorCheck(name, otherwise, found, advice)


@cli.command("doctor", epilog=examples("finsent doctor", "finsent doctor --profile llama-3.1-8b --json"))
@click.pass_obj
def doctor_command(settings: Settings) -> CommandResult:
    """Check that this machine can do the work.

    Checks packages, memory, disk, GPU, servers and base model. Exit code 1 on a failure.
    """
    config, home = settings.config(), settings.home()
    checks = [check for group in CHECKS for check in group(config, home)]
    failed = any(check.state == "fail" for check in checks)
    return CommandResult({"ok": not failed, "checks": checks}, render_checks(checks), code=1 if failed else 0)


def render_checks(checks: list[DoctorCheck]) -> Renderable:
    """One line a check, and below them what to do."""
    rows = [(status_word(check.state), check.name, check.found) for check in checks]
    todo = [f"  {check.name}: {check.advice}" for check in checks if check.advice]
    return stack(table(("", "check", "found"), rows), section("What to do", lines(*todo)) if todo else "Nothing to do.")


def check_packages(config: Config, home: Workspace) -> Iterator[DoctorCheck]:  # noqa: ARG001 - every group of checks takes both
    """Python, packages that are needed, and those of which newer releases break something."""
    supported = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield _check("python", supported, ".".join(map(str, sys.version_info[:3])), "Use Python 3.11, 3.12 or 3.13.")
    for name, (ceiling, breaks) in CEILINGS.items():
        found = _version(name)
        if found is None:
            yield DoctorCheck(name, "fail", "not installed", INSTALL)
        else:
            older = tuple(int(part) for part in found.split(".")[:2]) < ceiling
            yield _check(name, older, found, f"{breaks}: pip install '{name}<{'.'.join(map(str, ceiling))}'.")
    versions = {name: _version(name) for name in NEEDED}
    missing = [name for name, found in versions.items() if found is None]
    listed = ", ".join(f"{name} {found}" for name, found in versions.items() if found)
    yield _check("packages", not missing, f"missing: {', '.join(missing)}" if missing else listed, INSTALL)
    yield _bitsandbytes()


def _bitsandbytes() -> DoctorCheck:
    try:
        import bitsandbytes
    except Exception as error:  # noqa: BLE001 - a broken native library raises anything; the check reports it
        found = f"does not import: {type(error).__name__}: {error}"
        return DoctorCheck("bitsandbytes", "fail", found, f"4-bit bases need it. {INSTALL}")
    return DoctorCheck("bitsandbytes", "ok", str(bitsandbytes.__version__))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_hardware(config: Config, home: Workspace) -> Iterator[DoctorCheck]:  # noqa: ARG001
    """Cores, memory, GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield DoctorCheck("cores", "ok", str(cores))
    from finsent.engine.host_memory import host_memory

    total, free = host_memory()
    found = f"{total / GIB:.1f} GiB, {free / GIB:.1f} free"
    yield _check("memory", free >= 2 * GIB, found, "Training nano takes about 2 GiB.", otherwise="warn")
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        yield DoctorCheck("gpu", "ok", f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB")
        return
    small = config.model.embedded is not None or "MiniLM" in config.model.name
    advice = f"Training {config.model.name!r} without a GPU takes days. Use --profile nano, or a machine with a GPU."
    yield _check("gpu", small, "none", advice, otherwise="warn")


def check_storage(config: Config, home: Workspace) -> Iterator[DoctorCheck]:  # noqa: ARG001
    """Whether the home can be written, and the disk that it is on."""
    existing = next(folder for folder in (home.root, *home.root.parents) if folder.exists())
    writable = os.access(existing, os.W_OK | os.X_OK) and existing.is_dir()
    advice = f"{str(existing)!r} cannot be written: choose another with --home or FINSENT_HOME."
    yield _check("home", writable, str(home.root), advice)
    free = shutil.disk_usage(existing).free / GIB
    advice = "Make room: bases, checkpoints and the MLflow store grow here."
    yield _check("disk", free >= 5, f"{free:.1f} GiB free", advice, otherwise="fail" if free < 1 else "warn")


def check_artifacts(config: Config, home: Workspace) -> Iterator[DoctorCheck]:  # noqa: ARG001
    """Whether models and evidence are where the home's own MLflow store says, and that is in the home."""
    from finsent.registry.relocation import foreign_locations, missing_artifacts, store_file

    if store_file(home) is None:
        return
    try:
        foreign, missing = foreign_locations(home), missing_artifacts(home)
    except FinsentError as error:
        yield DoctorCheck("artifacts", "fail", "the MLflow store cannot be read", str(error))
        return
    if foreign:
        found = f"{len(foreign)} locations outside the home, such as {foreign[0]}"
        command = f"finsent home move --home {shlex.quote(str(home.root))}"
        advice = f"The home was copied, moved or restored: `{command}` makes it use its own files."
        yield DoctorCheck("artifacts", "fail", found, advice)
        return
    advice = f"Restore them from a backup to {str(home.artifacts)!r}; such a version can neither score nor be promoted."
    yield _check("artifacts", not missing, f"missing of {', '.join(missing)}" if missing else "in the home", advice)


def check_surroundings(config: Config, home: Workspace) -> Iterator[DoctorCheck]:  # noqa: ARG001
    """User, permissions, limits, proxies, launchers, output, clock."""
    yield from (DoctorCheck(*found) for found in find_surroundings(home))


def check_access(config: Config, home: Workspace) -> Iterator[DoctorCheck]:
    """What this user may write, what the servers let this account do, room on other disks, frozen locks."""
    yield from (DoctorCheck(*found) for found in find_access(config, home))


def check_servers(config: Config, home: Workspace) -> Iterator[DoctorCheck]:  # noqa: ARG001
    """MLflow's and Prefect's server, where there are any."""
    from finsent.registry.mlflow_errors import public_uri

    uri, own = home.tracking_uri, find_mlflow(home.root)
    if uri.startswith("http"):
        advice = "It does not answer: start it, or correct MLFLOW_TRACKING_URI."
        yield _check("mlflow", is_healthy(uri, timeout=5), public_uri(uri), advice)
    elif own is not None:
        advice = f"{own.url} in services.json {own.problem}. Run `finsent up` again, or delete {str(services_path(home.root))!r}."
        yield DoctorCheck("mlflow", "warn", f"no server, the store itself: {public_uri(uri)}", advice)
    else:
        yield DoctorCheck("mlflow", "ok", f"no server, the store itself: {public_uri(uri)}")
    prefect = find_prefect(home.root)
    if prefect is None:
        yield DoctorCheck("prefect", "ok", "no server; flows start a temporary one")
    else:
        advice = f"It {prefect.problem}: start it, or correct PREFECT_API_URL."
        yield _check("prefect", prefect.problem is None, public_uri(prefect.url), advice)


def check_base_model(config: Config, home: Workspace) -> Iterator[DoctorCheck]:  # noqa: ARG001
    """Whether the base model is embedded, a folder, in the Hub cache, or can be fetched."""
    name = config.model.name
    if config.model.embedded is not None:
        yield DoctorCheck("base model", "ok", "embedded, built on the spot")
        return
    folder = Path(name).expanduser()
    if folder.is_dir():
        whole = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
        yield _check("base model", whole, str(folder), "The folder lacks config.json or *.safetensors.")
    else:
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


def check_champion(config: Config, home: Workspace) -> Iterator[DoctorCheck]:
    """Whether the alias `champion` is where the audit log's decisions put it; nothing where MLflow cannot be reached."""
    from finsent.registry.champion import champion_state

    if not registry_exists(home):
        return
    try:
        state = champion_state(make_context(config, home).registry)
    except CheckFailed as error:
        yield DoctorCheck("champion", "fail", "audit log cannot be read", str(error))
        return
    except FinsentError:
        return  # the check of the server says so
    found = f"version {state.alias}" if state.alias else "none yet" if state.entry is None else "none"
    yield _check("champion", state.problem is None, found, state.problem or "")


CHECKS = (
    *(check_packages, check_hardware, check_storage, check_artifacts, check_surroundings, check_servers, check_access),
    *(check_base_model, check_champion),
)
"""Groups of checks, in the order shown; none changes anything."""
