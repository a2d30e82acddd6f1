"""Packages an adapter as an MLflow model folder: pyfunc from code, adapter, finsent's source, pinned requirements. No pickle."""

import logging
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path

import finsent
from finsent.errors import ArtifactError
from finsent.models.manifest import verify_manifest

ADAPTER = "artifacts/adapter"
"""Where the adapter lies in the model folder."""

_REQUIREMENTS = (
    "accelerate",
    "bitsandbytes",
    "filelock",
    "ftfy",
    "mlflow",
    "numpy",
    "peft",
    "pydantic",
    "PyYAML",
    "safetensors",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
)
_SERVED = (
    *("*.py", "py.typed", "config/*.py", "config/profiles/*", "engine/*.py", "models/*.py"),
    "data/__init__.py",
    *(f"data/validation/{name}.py" for name in ("__init__", "dates", "row_validation", "text_cleaning", "text_repair")),
)
"""What serving runs: the core, the engine and the models. Each file is a request of its own when it goes to a server."""


def requirements() -> list[str]:
    """What a version needs to be served, pinned to what is installed (local build tags like `+cpu` are on no index)."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS]


def save_model_folder(adapter: Path, folder: Path, *, model_id: str, run_id: str, metadata: dict[str, str]) -> None:
    """Write the MLflow model of `adapter` to `folder`, which must not exist yet. Nothing is loaded for it.

    Raises:
        ArtifactError: the adapter does not match its manifest.
    """
    from mlflow.models import Model

    verify_manifest(adapter)
    staged = folder.parent / "staged"
    # under fixed names: MLflow copies whatever lies in the folders it is given, and names them as it finds them
    shutil.copytree(adapter, staged / "adapter")
    package = Path(finsent.__file__).parent
    for source in sorted(path for pattern in _SERVED for path in package.glob(pattern) if path.is_file()):
        target = staged / "finsent" / source.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    logging.getLogger("mlflow.types.type_hints").setLevel(logging.ERROR)  # says of each union that it is not checked
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")  # about type hints of MLflow's own
        import mlflow.pyfunc
    mlflow.pyfunc.save_model(
        path=str(folder),
        mlflow_model=Model(run_id=run_id, model_uuid=model_id, model_id=model_id),
        python_model=str(package / "registry" / "serving_model.py"),
        artifacts={"adapter": str(staged / "adapter")},
        code_paths=[str(staged / "finsent")],
        pip_requirements=requirements(),
        metadata=metadata,
    )
    shutil.rmtree(staged)
    _forget_local_paths(folder)
    if not (folder / ADAPTER / "manifest.json").is_file():
        raise ArtifactError(f"MLflow laid the adapter elsewhere than {ADAPTER!r}: this MLflow is not the pinned one.")


def _forget_local_paths(folder: Path) -> None:
    """Remove the absolute paths that MLflow records: loading uses only names, and the paths disclose this machine's layout."""
    from mlflow.models import Model

    model = Model.load(str(folder / "MLmodel"))
    pyfunc = model.flavors["python_function"]
    pyfunc["model_code_path"] = "serving_model.py"
    for artifact in pyfunc["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(folder / "MLmodel"))
