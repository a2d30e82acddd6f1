"""A registry's champions count together, whatever the clocks say, and those of one begun anew do not."""

from collections.abc import Callable

import pytest

from finsent.data.predictions import ChampionLine
from finsent.registry import audit_log
from finsent.registry.client import Registry
from finsent.registry.scoring_identity import scoring_identity
from tests.champions import crown
from tests.registry.clocks import clock_at


@pytest.fixture
def new_champion(registry: Registry, bare_version: Callable[[], str]) -> Callable[..., ChampionLine]:
    """`new_champion(digest, before)`: a version with that digest is promoted over the one before; its line."""

    def promote(digest: str, before: str | None = None) -> ChampionLine:
        version = bare_version()
        registry.client.set_model_version_tag(registry.name, version, "manifest_sha256", digest)
        crown(registry, version, before)
        line = scoring_identity(registry, version).line
        assert line is not None
        return line

    return promote


def test_champions_of_a_registry_share_a_line_and_one_begun_anew_has_another(
    registry: Registry, bare_version: Callable[[], str], new_champion: Callable[..., ChampionLine]
) -> None:
    first, second = new_champion("a"), new_champion("b", "1")
    assert (first.digests, second.digests) == ({"a"}, {"a", "b"})
    assert second.key == first.key
    waits = bare_version()
    registry.client.set_model_version_tag(registry.name, waits, "manifest_sha256", "never champion here")
    again = scoring_identity(registry, "2").line
    assert again == second
    registry.client.delete_registered_model(registry.name)
    registry.client.create_registered_model(registry.name)
    anew = new_champion("c")
    assert anew.digests == {"c"}
    assert anew.key != first.key
    assert anew.since > first.since


def test_a_clock_behind_that_of_mlflow_loses_no_champion(
    registry: Registry, new_champion: Callable[..., ChampionLine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "datetime", clock_at("2020-01-01T00:00:00"))
    new_champion("a")
    monkeypatch.setattr(audit_log, "datetime", clock_at("2020-01-02T00:00:00"))
    assert new_champion("b", "1").digests == {"a", "b"}


def test_a_champion_whose_version_was_deleted_counts_still(registry: Registry, new_champion: Callable[..., ChampionLine]) -> None:
    new_champion("a")
    line = new_champion("b", "1")
    registry.client.delete_model_version(registry.name, "1")
    assert scoring_identity(registry, "2").line == line
