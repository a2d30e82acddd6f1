"""What import-linter cannot see: that the rings hold at run time, where the heavy libraries are absent."""

import subprocess
import sys

import pytest

BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}: raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
SERVERS = {"prefect", "mlflow", "datasets", "evaluate", "deltalake"}
CORE = [
    "config",
    "errors",
    "workspace",
    "labels",
    "text",
    "data.validation.row_validation",
    "data.splits",
    "evaluation.statistics",
]
CORE += ["registry.gate", "registry.audit_log", "monitoring.drift", "monitoring.retrain_policy", "models.manifest"]


@pytest.mark.parametrize(
    ("modules", "blocked"),
    [
        (CORE, SERVERS | {"torch", "transformers", "peft", "bitsandbytes", "accelerate"}),
        (
            [
                "models.predict",
                "models.adapter",
                "engine.train_step",
                "training.trainer",
                "training.preflight",
                "training.run_dir",
            ],
            SERVERS,
        ),
    ],
)
def test_rings_import_without_what_is_outside_them(modules: list[str], blocked: set[str]) -> None:
    imports = "\n".join(f"import finsent.{module}" for module in modules)
    run = subprocess.run(
        [sys.executable, "-c", BLOCK.format(blocked=blocked) + imports], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
