"""Shared by all tests: a closed world (no network, no telemetry, no state outside temporary folders) and a fresh home."""

import json
import os
import runpy
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finsent.config import Config, load_config
from finsent.registry.client import Registry
from finsent.steps.context import make_context
from finsent.workspace import Workspace, resolve_workspace

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


@pytest.fixture(scope="session", autouse=True)
def _scratch_is_removed() -> Iterator[None]:
    """Nothing of a test run stays behind."""
    yield
    shutil.rmtree(_SCRATCH, ignore_errors=True)


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
def make_adapter(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Callable[[int], Path]:
    """`make_adapter(seed)`: an adapter folder with manifest and probe, its head drawn from the seed, nothing trained."""
    scratch = resolve_workspace({"FINSENT_HOME": str(tmp_path_factory.mktemp("adapters"))})
    made: dict[int, Path] = {}

    def make(seed: int = 0) -> Path:
        if seed not in made:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch and transformers deprecate things of their own
                made[seed] = _build_adapter(scratch, tiny_config, seed)
        return made[seed]

    return make


@pytest.fixture(scope="session")
def build_adapter() -> Callable[[Workspace, Config, int], Path]:
    """`build_adapter(home, config, seed)`: the same for any base."""
    return _build_adapter


def _build_adapter(home: Workspace, config: Config, seed: int) -> Path:
    import torch

    from finsent.labels import LABELS
    from finsent.models.adapter import add_lora, head_sha256, load_adapter, load_tokenizer, save_adapter
    from finsent.models.base import load_base, locate_base
    from finsent.models.manifest import PROBE, Manifest, write_manifest
    from finsent.models.predict import predict_logits

    texts = [
        "$AAPL to the moon",
        "selling all my $TSLA, it will crash",
        "fed meets on tuesday",
        "beat on earnings",
        "puts printing",
    ]
    base = locate_base(config.model, home)
    tokenizer = load_tokenizer(base, config.model, texts * 20)
    torch.manual_seed(seed)
    model = load_base(base, config.model, "cpu")
    model.config.pad_token_id = tokenizer.pad_token_id
    peft_model = add_lora(model, config.lora, config.model.name)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:  # zero until trained, and then the adapter would do nothing
            torch.nn.init.normal_(parameter.data, std=0.05)
    folder = home.root / f"adapter-{seed}"
    folder.mkdir(parents=True)
    save_adapter(peft_model, tokenizer, folder)
    (folder / "README.md").unlink(missing_ok=True)
    manifest = Manifest(
        base_name=config.model.name,
        base_revision=base.revision,
        base_fingerprint=base.fingerprint,
        embedded=config.model.embedded,
        quantization=config.model.quantization,
        labels=LABELS,
        max_length=config.model.max_length,
        padding_side=config.model.padding_side,
        pad_token_id=tokenizer.pad_token_id,
        data_version=1,
        data_fingerprint="ab" * 16,
        split_rule="by hash of the near-duplicate group",
        config=config.model_dump(mode="json"),
        git_sha=None,
        lock_hash="0" * 64,
    )
    write_manifest(folder, manifest)
    loaded = load_adapter(folder, home)
    probe = {"texts": texts, "logits": predict_logits(loaded, texts).tolist(), "head_sha256": head_sha256(loaded.model)}
    (folder / PROBE).write_text(json.dumps(probe), encoding="utf-8")
    write_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="session")
def _mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes seconds, copying it none."""
    from finsent.registry.tracking import connect

    home = resolve_workspace({"FINSENT_HOME": str(tmp_path_factory.mktemp("mlflow"))})
    connect(home)
    return home.root / "mlflow.db"


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
    """A home with data, one evaluated version, and that version as champion. Shared by many tests: leave it as it was."""

    config: Config
    home: Workspace
    version: str
    options: tuple[str, ...]
    """What the command line takes to work with it."""


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    """Ingested, trained and evaluated for real; made champion by hand, since the gate rightly refuses so small a model."""
    from finsent.data.sample import sample_sources
    from finsent.registry.aliases import set_champion
    from finsent.steps.evaluate import evaluate
    from finsent.steps.ingest import ingest
    from finsent.steps.train import train

    home = resolve_workspace({"FINSENT_HOME": str(tmp_path_factory.mktemp("served") / "home")})
    config = load_config("nano", overrides=TINY)
    ingest(config, home, sample_sources(1)[:1])
    version = train(make_context(config, home)).model_version
    evaluate(make_context(config, home), version=version)
    set_champion(Registry(home, config.registered_model), version, None)
    options = ("--home", str(home.root), *(part for override in TINY for part in ("--set", override)))
    return Served(config, home, version, options)


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
