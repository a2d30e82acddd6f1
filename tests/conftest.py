"""Shared by all tests: a closed world (no network, no telemetry, no state outside temporary folders) and a fresh home."""

import gc
import json
import os
import runpy
import shutil
import signal
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock
from hypothesis import settings

from finsent.config import Config, load_config
from finsent.registry.client import Registry
from finsent.steps.context import make_context
from finsent.workspace import Workspace, resolve_workspace
from tests.adapters import build_adapter
from tests.champions import crown
from tests.homes import BuildOnce, copy_home

if TYPE_CHECKING:
    from finsent.data.ingest_report import IngestReport

# Before anything heavy is imported: libraries read these once
_SCRATCH = Path(tempfile.mkdtemp(prefix="finsent-tests-"))
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": str(_SCRATCH / "matplotlib"),
        "HF_HOME": str(_SCRATCH / "huggingface"),
        "HF_MODULES_CACHE": str(_SCRATCH / "huggingface-modules"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        "PREFECT_HOME": str(_SCRATCH / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)
for _name in ("FINSENT_HOME", "FINSENT_TABLES", "FINSENT_PROFILE", "FINSENT_CONFIG", "MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
    os.environ.pop(_name, None)

# in a shell's background job, and under `nohup`: what tests interrupt or hang up would ignore it, too
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("finsent", deadline=None)  # a machine that is shared pauses for as long as it likes
settings.load_profile("finsent")


QUICK = {"benchmarks", "data", "evaluation", "flows", "monitoring", "reporting", "tests"}
"""Folders of files that take seconds each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole files go to processes in this order: servers first and short files last, so that all end at about one time."""
    items.sort(key=lambda item: (item.path.parent.name != "integration", item.path.parent.name in QUICK))


@pytest.fixture(scope="session", autouse=True)
def _scratch_is_removed() -> Iterator[None]:
    """Nothing of a test run stays behind."""
    yield
    shutil.rmtree(_SCRATCH, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _sqlite_does_not_wait_for_the_disk() -> None:
    """Only a crash of the machine could lose what is not yet on the disk; killed processes lose nothing."""
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def relax(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("pragma synchronous = off")


@pytest.fixture(scope="module", autouse=True)
def _modules_before_are_frozen() -> None:
    """Take what imported libraries hold out of later collections: loading a model asks for a full one, of a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def home(tmp_path: Path) -> Workspace:
    """A home of its own, with MLflow's store in it."""
    return resolve_workspace({"FINSENT_HOME": str(tmp_path / "home")})


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """The nano profile, shrunk to what builds in a blink."""
    small = ("layers=1", "hidden_size=64", "intermediate_size=128", "heads=2", "kv_heads=1", "vocab_size=512")
    return load_config("nano", overrides=[f"model.embedded.{item}" for item in small])


@pytest.fixture(scope="session")
def build_once(tmp_path_factory: pytest.TempPathFactory) -> BuildOnce:
    """`build_once(name, build)`: a folder that one process fills by `build(folder)` and all processes read, not write."""
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker's folder lies in that of the whole run
        run = run.parent
    shared = run / "shared"

    def find(name: str, build: Callable[[Path], object]) -> Path:
        folder, built = shared / name, shared / f"{name}.built"
        shared.mkdir(exist_ok=True)
        with FileLock(shared / f"{name}.lock"):
            if not built.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
                folder.mkdir()
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch, transformers and evaluate deprecate things of their own
                    build(folder)
                built.touch()
        return folder

    return find


@pytest.fixture(scope="session")
def make_adapter(build_once: BuildOnce, tiny_config: Config) -> Callable[[int], Path]:
    """`make_adapter(seed)`: an adapter folder with manifest and probe, its head drawn from the seed, nothing trained."""

    def make(seed: int = 0) -> Path:
        folder = build_once(
            f"adapter-{seed}", lambda at: build_adapter(resolve_workspace({"FINSENT_HOME": str(at)}), tiny_config, seed)
        )
        return folder / f"adapter-{seed}"

    return make


@pytest.fixture(scope="session")
def _mlflow_store(build_once: BuildOnce) -> Path:
    """An empty MLflow database; making one takes seconds, copying it none."""
    from finsent.registry.tracking import connect

    return build_once("mlflow-store", lambda at: connect(resolve_workspace({"FINSENT_HOME": str(at)}))) / "mlflow.db"


@pytest.fixture
def mlflow_home(home: Workspace, _mlflow_store: Path) -> Workspace:
    """A home whose MLflow store is there already."""
    home.root.mkdir(parents=True)
    shutil.copyfile(_mlflow_store, home.root / "mlflow.db")
    return home


@pytest.fixture
def registry(mlflow_home: Workspace) -> Registry:
    """The registered model `finsent` of `mlflow_home`."""
    return Registry(mlflow_home, "finsent")


@pytest.fixture
def proof_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation's proof loads the version here, not in a new process, whose imports take ten seconds."""
    from finsent.registry import verification
    from finsent.scoring import predictor

    def replay(home: Workspace, name: str, version: str) -> Any:
        with predictor._one_model_at_a_time:  # transformers sets torch's default type while it loads: one thread at a time
            return verification.replay_probe(home, name, version)

    def here(home: Workspace, name: str, version: str) -> Any:
        return nullcontext(partial(replay, home, name, version))

    monkeypatch.setattr(verification, "_new_process", here)


@dataclass(frozen=True)
class Sampled:
    """The bundled sample: its first day, the same again, its second day. Shared by all tests: do not write to it."""

    home: Workspace
    first: "IngestReport"
    again: "IngestReport"
    second: "IngestReport"


@pytest.fixture(scope="session")
def sampled(build_once: BuildOnce) -> Sampled:
    """Ingested for real."""
    from finsent.data.ingest_report import IngestReport

    folder = build_once("sampled", _build_sampled)
    reports = json.loads((folder / "ingested.json").read_text(encoding="utf-8"))
    return Sampled(resolve_workspace({"FINSENT_HOME": str(folder / "home")}), *(IngestReport(**report) for report in reports))


def _build_sampled(folder: Path) -> None:
    from finsent.data.sample import sample_sources
    from finsent.steps.ingest import ingest

    home = resolve_workspace({"FINSENT_HOME": str(folder / "home")})
    reports = [asdict(ingest(make_context(load_config(), home), sample_sources(day))) for day in (1, 1, 2)]
    (folder / "ingested.json").write_text(json.dumps(reports), encoding="utf-8")


TINY = (
    "model.embedded.hidden_size=64",
    "model.embedded.intermediate_size=64",
    "model.embedded.layers=1",
    "model.embedded.heads=2",
    "model.embedded.kv_heads=1",
    "model.embedded.vocab_size=512",
    "lora.r=4",
    "recipe.epochs=0.25",
    "gate.bootstrap_resamples=100",
)
"""`nano` made so small that it trains in seconds; it learns nothing, and the gate refuses it."""


@dataclass(frozen=True)
class Served:
    """A home with data, one evaluated version, and that version as champion. A module's own; its tests share it."""

    config: Config
    home: Workspace
    version: str
    options: tuple[str, ...]
    """What the command line takes to work with it."""


@pytest.fixture(scope="module")
def served(build_once: BuildOnce, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Ingested, trained and evaluated for real; made champion by hand, since the gate rightly refuses so small a model."""
    built = build_once("served", _build_served)
    home = copy_home(built, tmp_path_factory.mktemp("served") / "home")
    options = ("--home", str(home.root), *(part for override in TINY for part in ("--set", override)))
    return Served(load_config("nano", overrides=TINY), home, "1", options)


def _build_served(folder: Path) -> None:
    from finsent.data.sample import sample_sources
    from finsent.steps.evaluate import evaluate
    from finsent.steps.ingest import ingest
    from finsent.steps.train import train

    home, config = resolve_workspace({"FINSENT_HOME": str(folder)}), load_config("nano", overrides=TINY)
    context = make_context(config, home)
    ingest(context, sample_sources(1)[:1])
    version = train(context).model_version
    evaluate(context, version=version)
    crown(context.registry, version)


@pytest.fixture(scope="session")
def specimen() -> Any:
    """Evidence of a version that met a champion, with the rows that it was taken on (tests/evaluation/specimen.py)."""
    return _specimen(champion=True)


@pytest.fixture(scope="session")
def first_specimen() -> Any:
    """The same of a version without a champion to meet."""
    return _specimen(champion=False)


def _specimen(*, champion: bool) -> Any:
    path = Path(__file__).parent / "evaluation" / "specimen.py"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `evaluate` and what it imports deprecate things of their own
        return runpy.run_path(str(path))["specimen"](champion=champion)
