"""Fetching from the Hub, its local cache first, with errors that say what to do. Knows no kind of model."""

from collections.abc import Sequence
from pathlib import Path

from finsent.errors import FinsentError


def fetch(
    name: str, revision: str | None, wanted: Sequence[str], *, what: str, correct: str, instead: str, error: type[FinsentError]
) -> tuple[Path, str | None]:
    """Snapshot folder of the files that match `wanted`, subfolders left out, and the commit that it is of.

    Args:
        name: Hub id, `owner/name`.
        revision: Branch, tag or commit; None for the default branch.
        wanted: Patterns of file names.
        what: What is fetched, as messages call it.
        correct: What to correct where name or revision is wrong.
        instead: What to do where the Hub cannot be reached.
        error: What to raise.

    Raises:
        FinsentError: as `error`: gated, not there, no such revision, no valid id, or not reachable and not in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(wanted), ignore_patterns=["*/*"]))
    except GatedRepoError as cause:
        raise error(f"{what} {name!r} is gated. Accept its licence on its Hub page and set HF_TOKEN.") from cause
    except RevisionNotFoundError as cause:
        raise error(f"{what} {name!r} has no revision {revision!r}. Correct {correct}.") from cause
    except RepositoryNotFoundError as cause:
        raise error(
            f"{what} {name!r} is not on the Hub (or private: set HF_TOKEN), nor a local folder. Correct {correct}."
        ) from cause
    except HFValidationError as cause:
        raise error(f"{what} {name!r} is neither a folder here nor a valid Hub id. Correct {correct}.") from cause
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as cause:
        raise error(
            f"{what} {name!r} cannot be reached ({type(cause).__name__}) and is not in the local cache. "
            f"Connect to the Hub, or {instead}."
        ) from cause
    return folder, folder.name if folder.parent.name == "snapshots" else revision
