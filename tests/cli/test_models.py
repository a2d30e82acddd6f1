"""`finsent train` under a launcher."""

from typing import TYPE_CHECKING

import pytest

from finsent.cli import models
from finsent.errors import CheckFailed
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent


@pytest.mark.parametrize("size", ["1", "2"])
def test_only_a_launch_of_several_processes_is_refused_where_it_would_have_to_wait(
    size: str, finsent: "Finsent", mlflow_home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Workspace) -> None:
        raise CheckFailed("another training holds the GPU")

    monkeypatch.setattr(models, "_require_free_place", refuse)
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", "0")
    said = finsent("train", "--home", mlflow_home.root)
    assert ("another training holds the GPU" in said.err) is (size == "2")
    assert ("there is no data yet" in said.err) is (size == "1")
