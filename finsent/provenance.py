"""Which code and which packages made an artifact."""

import hashlib
import os
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import finsent


def git_sha() -> str | None:
    """Commit of the checkout that finsent runs from, `-dirty` if files differ; None outside a checkout."""
    folder = Path(finsent.__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    # in a hook or under `git rebase --exec` these name another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip()


def lock_hash() -> str:
    """SHA-256 over the name and version of every installed distribution: equal hashes mean equal environments."""
    pins = sorted({f"{dist.metadata['Name'].lower()}=={dist.version}" for dist in distributions() if dist.metadata["Name"]})
    return hashlib.sha256("\n".join(pins).encode()).hexdigest()
