"""What is checked before anything is put on a Prefect server. The rest needs one: tests/integration/test_prefect_server.py."""

from pathlib import Path

import pytest

from finsent.cli.provision import provision
from finsent.errors import InputError


def test_a_deployment_with_a_password_is_refused_before_anything_is_deployed(tmp_path: Path) -> None:
    parameters = '{sources: [{uri: "postgresql://reader:hunter2@db/desk", query: "select 1"}]}'
    (tmp_path / "prefect.yaml").write_text(f"deployments:\n  - parameters: {parameters}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"prefect.yaml', line 2: .*reader:\*\*\*@db/desk.*Nothing was deployed") as refused:
        provision(tmp_path / "automations.yaml", ["cpu"])
    assert "hunter2" not in str(refused.value)
