"""Versions that were "evaluated": real adapters in a real registry, with evidence on record that passes every rule."""

import copy
import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from finsent.config import Config, load_config
from finsent.evaluation.baselines import BASELINE_NAMES
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.robustness.suite import CHECKS
from finsent.labels import LABELS
from finsent.registry import audit_log, tracking
from finsent.registry.client import Registry
from finsent.registry.evidence_store import record_evidence
from finsent.registry.gate import evaluate_gate, rules_digest
from finsent.workspace import Workspace

AUTOMATIC = load_config("nano", overrides=["gate.approval=automatic"])
WITH_APPROVAL = load_config("nano", overrides=["gate.approval=required"])
SIGNED = ("dana", "looked at the report")


def evidence(
    version: str, champion: str | None = None, accuracy: float = 0.9, config: Config = AUTOMATIC, manifest: str = "cd" * 32
) -> Evidence:
    """Evidence that passes every rule, but for an accuracy that may be too low."""
    interval = {"low": 0.01, "high": 0.05, "level": 0.95}
    difference = {"difference": 0.02, "standard_error": 0.005, **interval}
    better = {"only_a": 130, "only_b": 60, "p_one_sided": 2e-7, "p_two_sided": 4e-7}
    per_class = {label: {"precision": 0.9, "recall": 0.9, "f1": 0.9, "support": 1000} for label in LABELS}
    confusion = [[900, 50, 50], [50, 900, 50], [50, 50, 900]]
    metrics = {"n": 3000, "accuracy": accuracy, "macro_f1": 0.9, "mcc": 0.8, "per_class": per_class, "confusion": confusion}
    scores = {"accuracy": 0.9, "accuracy_interval": interval, "macro_f1": 0.9, "mcc": 0.8, "baseline_accuracy": 0.7}
    paired = {"macro_f1_difference": difference, "class_f1_difference": dict.fromkeys(LABELS, difference)}
    power = {"groups": 2900, "discordant_share": 0.06, "detectable_difference": 0.012, "alpha": 0.05, "power": 0.8}
    compared = {"metrics": copy.deepcopy(metrics), "mcnemar": better, "paired_bootstrap": paired, "power": power}
    check = {"n": 300, "failure_rate": 0.05, "interval": interval}
    return Evidence(
        model_name="finsent",
        model_version=version,
        data_version=1,
        data_fingerprint="ab" * 16,
        test_fingerprint="cd" * 16,
        n_test=3000,
        metrics=metrics,
        intervals=dict.fromkeys(("accuracy", "macro_f1", "mcc", "ece", "brier"), interval),
        slices={"source": {"all": {"n": 3000, **scores, **({"accuracy_difference": difference} if champion else {})}}},
        ece=0.02,
        temperature=1.2,
        calibration={
            "brier": 0.15,
            "ece_before_scaling": 0.05,
            "abstention": {"target_precision": 0.9, "threshold": 0.6, "coverage": 0.8, "precision": 0.93},
        },
        leaks=0,
        baselines={baseline: {"accuracy": 0.2, "macro_f1": 0.2, "mcnemar": better} for baseline in BASELINE_NAMES},
        robustness={name: {"kind": kind, **check} for name, kind in CHECKS.items()},
        champion_version=champion,
        champion_compared=champion is not None,
        champion=compared if champion else None,
        round_trip={
            "max_logit_difference": 1e-4,
            "head_hash_equal": True,
            "labels_equal": True,
            "padding_equal": True,
            "max_padding_difference": 1e-4,
            "max_batch_difference": 1e-4,
        },
        manifest_sha256=manifest,
        rules_sha256=rules_digest(config.gate),
        test_set_uses={"at_these_rows": 1, "at_any_rows": 1},
        speed={
            "device": "cpu",
            "rows_per_second": 500.0,
            "latency_ms_p50": 4.0,
            "latency_ms_p95": 9.0,
            "hours_per_million": 0.6,
            "cost_per_million": 0.1,
        },
        taken_at="2026-01-01T00:00:00+00:00",
    )


def register(home: Workspace, adapter: Path) -> str:
    """Put the adapter into the registry as a training would; returns the version."""
    client = tracking.connect(home)
    run = client.create_run(tracking.experiment_id(client, home, AUTOMATIC.experiment))
    return Registry(home, AUTOMATIC.registered_model).register(adapter, run_id=run.info.run_id, profile=AUTOMATIC.profile)


def evidence_of(home: Workspace, version: str, **options: object) -> Evidence:
    """`evidence` about the very artifact that is registered as the version."""
    manifest = tracking.connect(home).get_model_version("finsent", version).tags["manifest_sha256"]
    return evidence(version, manifest=manifest, **options)  # type: ignore[arg-type]


def leave(home: Workspace, version: str, content: str) -> None:
    """Put a file where the evaluation leaves its evidence."""
    client = tracking.connect(home)
    run_id = client.get_model_version("finsent", version).run_id
    client.log_text(run_id, content, "evaluation/evidence.json")


def take(home: Workspace, found: Evidence) -> None:
    """Leave evidence and put it on record, as the evaluation does."""
    content = found.model_dump_json(indent=2)
    leave(home, found.model_version, content)
    decision = evaluate_gate(found, AUTOMATIC.gate, found.champion_version)
    record_evidence(Registry(home, "finsent"), AUTOMATIC.gate, found, content.encode(), decision)


def evaluate_new(home: Workspace, adapter: Path, **options: object) -> str:
    """A new version with evidence on record."""
    version = register(home, adapter)
    take(home, evidence_of(home, version, **options))
    return version


@dataclass(frozen=True)
class Snapshot:
    """A home as it was at one moment. MLflow's store holds absolute paths, so it comes back to the same place."""

    home: Workspace
    kept: Path

    def restore(self) -> Workspace:
        """Bring everything back to that moment."""
        shutil.rmtree(self.home.root)
        shutil.copytree(self.kept, self.home.root)
        forget_connections()
        return self.home


def snapshot(home: Workspace, folder: Path) -> Snapshot:
    """Keep the home as it is now."""
    shutil.copytree(home.root, folder, ignore=shutil.ignore_patterns("*.lock"))
    return Snapshot(home, folder)


def forget_connections(*, inherited: bool = False) -> None:
    """Make MLflow open its database anew; with `inherited`, in a forked child, the parent's connections are left alone."""
    from sqlalchemy.engine import Engine

    for engine in [found for found in gc.get_objects() if type(found) is Engine]:
        engine.dispose(close=not inherited)


@pytest.fixture
def evaluated(mlflow_home: Workspace, make_adapter: Callable[[int], Path]) -> Callable[..., str]:
    """`evaluated(champion, ...)`: a new version with evidence on record; `content` is left in its place, as it is."""

    def create(
        champion: str | None = None, accuracy: float = 0.9, content: str | None = None, config: Config = AUTOMATIC, seed: int = 0
    ) -> str:
        if content is None:
            return evaluate_new(mlflow_home, make_adapter(seed), champion=champion, accuracy=accuracy, config=config)
        version = register(mlflow_home, make_adapter(seed))
        if content:
            leave(mlflow_home, version, content)
        return version

    return create


class Killed(BaseException):
    """Ends an operation where a kill would, without running what handles exceptions."""


def die(*_args: object, **_more: object) -> NoReturn:
    """Stands in for a function that the process does not reach."""
    raise Killed


def decisions(home: Workspace) -> list[dict[str, Any]]:
    """Entries of the audit log that are not about evidence."""
    return [entry for entry in audit_log.read(home.audit_log) if entry["action"] != "evaluate"]


def tags(home: Workspace, version: str) -> dict[str, str]:
    """Tags of a registered version."""
    return dict(tracking.connect(home).get_model_version("finsent", version).tags)
