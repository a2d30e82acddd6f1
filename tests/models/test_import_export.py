import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from finsent.config import Config
from finsent.errors import ArtifactError
from finsent.labels import LABELS
from finsent.models.import_export import convert_peft_adapter
from finsent.workspace import Workspace


def test_a_base_that_can_be_none_is_refused(
    make_adapter: Callable[[int], Path], tiny_config: Config, home: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    shutil.copytree(make_adapter(0), folder)
    file = folder / "adapter_config.json"
    named = {"base_model_name_or_path": "owner/base", "revision": [5]}
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **named}), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"the base named in .*adapter_config.json' cannot be one"):
        convert_peft_adapter(tiny_config, home, folder, tmp_path / "adapter", LABELS, lambda _: "")
