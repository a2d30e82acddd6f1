"""An exported adapter: its card's code runs, and nothing is overwritten."""

import subprocess
import sys
from pathlib import Path

import pytest

from finsent.errors import InputError
from finsent.models.manifest import verify_manifest
from finsent.steps.context import make_context
from finsent.steps.import_export import export_adapter, import_adapter
from finsent.steps.predict import predict


def snippet(card):
    return "\n".join(block.split("```")[0] for block in card.split("```python\n")[1:])


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
def test_snippet_runs_on_an_exported_folder_as_it_stands(mlflow_home, tiny_config, new_version, tmp_path, monkeypatch):
    version = new_version(0)
    monkeypatch.chdir(tmp_path)
    exported = export_adapter(make_context(tiny_config, mlflow_home), Path("out/mine"), version=version)
    folder = tmp_path / "out" / "mine"
    assert exported.base == tmp_path / "out" / "mine-base"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["mine", "mine-base"]
    verify_manifest(folder)
    code = snippet((folder / "README.md").read_text(encoding="utf-8"))
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    stated = [(line.split()[0], float(line.split()[1])) for line in run.stdout.strip().splitlines()[-2:]]
    texts = ["$AAPL to the moon! Great earnings, buying more calls!", "guidance cut again, $XYZ down 8% after hours"]
    own = predict(make_context(tiny_config, mlflow_home), texts, version=version).predictions
    assert [label for label, _ in stated] == [row.label for row in own]
    # the snippet's head is rounded to the base's bfloat16, finsent's own load keeps it in float32
    assert [confidence for _, confidence in stated] == pytest.approx([row.confidence for row in own], abs=0.02)
    assert import_adapter(make_context(tiny_config, mlflow_home), folder).model_version == "2"


def test_export_overwrites_nothing(mlflow_home, tiny_config, new_version, tmp_path):
    version = new_version(0)
    (tmp_path / "mine-base").mkdir()
    (tmp_path / "mine-base" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="mine-base' exists and is not an empty folder"):
        export_adapter(make_context(tiny_config, mlflow_home), tmp_path / "mine", version=version)
    assert not (tmp_path / "mine").exists()
