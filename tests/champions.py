"""Makes a version champion without a gate, as a person's approval does: the decision in the audit log, then the alias."""

from finsent.registry.aliases import set_champion
from finsent.registry.audit_log import APPROVE
from finsent.registry.audit_mirror import append_entry
from finsent.registry.client import Registry


def crown(registry: Registry, version: str, before: str | None = None) -> None:
    """Make the version champion in place of `before`."""
    manifest = registry.get_version(version).tags.get("manifest_sha256")
    decided = {"action": APPROVE, "decision": "promote", "champion": before, "reasons": [], "manifest_sha256": manifest}
    append_entry(registry, version, {**decided, "who": "tests", "why": "a champion is needed"})  # type: ignore[dict-item]
    set_champion(registry, version, before)
