"""An alias that somebody set in MLflow: every command that acts refuses, and every command that reports says so."""

from typing import TYPE_CHECKING, Any

from finsent.registry.client import Registry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Finsent


def test_what_acts_refuses_and_what_reports_exits_with_one(finsent: "Finsent", served: Any, tmp_path: "Path") -> None:
    registry = Registry(served.home, "finsent")
    assert finsent("ledger", "verify", *served.options).code == 0
    other = registry.client.create_model_version("finsent", source=registry.get_version("1").source).version
    tweets = tmp_path / "tweets.csv"
    tweets.write_text("id,text\na1,Velden beat every forecast\n", encoding="utf-8")
    registry.client.set_registered_model_alias("finsent", "champion", other)
    acts = (
        ("score", tweets),
        ("predict", "up"),
        ("serve",),
        ("export", tmp_path / "out"),
        ("monitor",),
        ("evaluate", "champion"),
        ("promote",),
    )
    try:
        for command in acts:
            said = finsent(*command, *served.options)
            assert (said.code, said.out) == (1, ""), command
            assert f"is on version {other}, and by the audit log's entry" in said.err
        assert finsent("status", "--json", *served.options).json()["scoring"]["inbox"] == 0, "nothing was received"
        for command in (("status",), ("ledger", "verify"), ("doctor",)):
            said = finsent(*command, *served.options)
            assert said.code == 1, command
            assert "was moved by hand" in " ".join(f"{said.out} {said.err}".split())
        assert finsent("status", "--json", *served.options).json()["decisions"]["agrees"] is False
        back = finsent("promote", "--version", "1", *served.options)
        assert (back.code, registry.champion()) == (0, "1")
        assert finsent("ledger", "verify", *served.options).code == 0
        refused = finsent("adopt", "--why", "because", *served.options)
        assert (refused.code, "nothing to adopt" in refused.err) == (1, True)
    finally:
        registry.client.delete_model_version("finsent", other)
