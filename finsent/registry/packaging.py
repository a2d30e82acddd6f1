"""Packages an adapter as an MLflow model folder: pyfunc from code, adapter, finsent's source, pinned requirements. No pickle."""

import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import finsent
from finsent.errors import ArtifactError
from finsent.models.manifest import verify_manifest
from finsent.models.serving_request import TEXT

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

ADAPTER = "artifacts/adapter"
"""Where the adapter lies in the model folder."""

_REQUIREMENTS = (
    "accelerate",
    "bitsandbytes",
    "filelock",
    "ftfy",
    "mlflow",
    "numpy",
    "pandas",
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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")  # about type hints of MLflow's own
        warnings.filterwarnings("ignore", message=".*An input example was not provided")  # the signature is not made of one
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(
            path=str(folder),
            mlflow_model=Model(run_id=run_id, model_uuid=model_id, model_id=model_id),
            python_model=str(package / "registry" / "serving_model.py"),
            artifacts={"adapter": str(staged / "adapter")},
            code_paths=[str(staged / "finsent")],
            pip_requirements=requirements(),
            signature=_signature(),
            metadata=metadata,
        )
    shutil.rmtree(staged)
    _rewrite_description(folder)
    if not (folder / ADAPTER / "manifest.json").is_file():
        raise ArtifactError(f"MLflow laid the adapter elsewhere than {ADAPTER!r}: this MLflow is not the pinned one.")


def _signature() -> "ModelSignature":
    """Of `ServedPrediction`. Spark names a lone column by it; frames may have others beside it."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, DataType, Map, Object, Property, Schema

    prediction = Object(
        [
            Property("label", DataType.string, required=False),
            Property("confidence", DataType.double, required=False),
            Property("abstained", DataType.boolean),
            Property("probabilities", Map(DataType.double)),
            Property("version", DataType.string, required=False),
            Property("reason", DataType.string, required=False),
        ]
    )
    return ModelSignature(inputs=Schema([ColSpec(DataType.string, TEXT)]), outputs=Schema([ColSpec(prediction)]))


def _rewrite_description(folder: Path) -> None:
    """Remove the absolute paths that MLflow records: loading uses only names, and the paths disclose this machine's layout.

    And say that the signature is not to be enforced: MLflow would refuse all rows of a request for one that is no text.
    """
    from mlflow.models import Model

    model = Model.load(str(folder / "MLmodel"))
    pyfunc = model.flavors["python_function"]
    pyfunc["model_code_path"] = "serving_model.py"
    for artifact in pyfunc["artifacts"].values():
        artifact["uri"] = artifact["path"]
    setattr(model.signature, "_is_signature_from_type_hint", True)  # noqa: B010 - a key of the file, which MLflow sets itself
    model.save(str(folder / "MLmodel"))
