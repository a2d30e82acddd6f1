"""Which code and which packages made a thing."""

import hashlib
from importlib.metadata import distributions


def lock_hash() -> str:
    """SHA-256 over every installed distribution's name and version: two equal hashes, two equal environments."""
    pins = sorted({f"{dist.metadata['Name'].lower()}=={dist.version}" for dist in distributions() if dist.metadata["Name"]})
    return hashlib.sha256("\n".join(pins).encode()).hexdigest()
