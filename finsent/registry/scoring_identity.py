"""Whose predictions count when a champion scores: its own, and those of the champions of the same registry."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from finsent.data.predictions import ChampionLine, ModelIdentity
from finsent.registry.audit_log import champion_moves
from finsent.registry.audit_mirror import decided_entries
from finsent.registry.client import Registry
from finsent.registry.tracking import filter_literal

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


def scoring_identity(registry: Registry, version: str) -> ModelIdentity:
    """What a version's predictions are told by, and those of the other champions of its registry.

    A registered model that was deleted and made anew is another one: the decisions before are not about it.

    Raises:
        InputError: there is no such version.
        CheckFailed: the audit log is damaged.
    """
    model, client = registry.identity(version), registry.client
    made = datetime.fromtimestamp(int(client.get_registered_model(registry.name).creation_timestamp) / 1000, UTC)
    entries = decided_entries(registry)
    decided = _about(entries, client.search_model_versions(f"name={filter_literal(registry.name)}"), made)
    # not of all versions: one that never was champion here may be another registry's, and have scored there
    known = {model.digest, *(entry.get("manifest_sha256") for entry in champion_moves(decided))}
    key = f"{made.isoformat()} {entries[0]['hash'] if entries else ''}"
    return replace(model, line=ChampionLine(key, frozenset(filter(None, known)), made))


def _about(entries: Sequence[dict[str, Any]], versions: "Sequence[ModelVersion]", made: datetime) -> Sequence[dict[str, Any]]:
    """The entries about the registered model as it is now: from the first about a version that it has.

    The time decides only about entries before that one, whose versions were deleted since: the clocks of MLflow and of this
    machine may differ.
    """
    there = {(str(version.version), version.tags.get("manifest_sha256")) for version in versions}

    def is_its(entry: dict[str, Any]) -> bool:
        digest = entry.get("manifest_sha256")
        is_there = digest is not None and (str(entry.get("version")), digest) in there
        return is_there or datetime.fromisoformat(entry["at"]) >= made

    return entries[next((place for place, entry in enumerate(entries) if is_its(entry)), len(entries)) :]
