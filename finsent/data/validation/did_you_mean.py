"""Lists of names for messages, and the one that was probably meant. Pure; bounded, since names may come from broken files."""

import difflib
from collections.abc import Sequence
from typing import Final

from finsent.data.validation.row_validation import shorten

_SHOWN: Final = 20
_LONGEST: Final = 60  # characters of a name that are shown
_COMPARED: Final = 1000  # names that are looked at for the nearest one


def format_names(names: Sequence[str]) -> str:
    """The names in quotes, the first twenty of many."""
    shown = ", ".join(repr(shorten(name, _LONGEST)) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown or "none"


def did_you_mean(name: str, candidates: Sequence[str]) -> str:
    """` Did you mean ...?`, or nothing where no candidate is near."""
    lowered = {candidate.casefold(): candidate for candidate in candidates[:_COMPARED] if len(candidate) <= 4 * _LONGEST}
    close = difflib.get_close_matches(name[: 4 * _LONGEST].casefold(), list(lowered), n=1, cutoff=0.6)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""
