"""Lists of names for error messages, and "did you mean" hints. Bounded, since names may come from malformed files."""

import difflib
from collections.abc import Sequence
from typing import Final

from finsent.data.validation.row_validation import shorten

_SHOWN: Final = 20
_LONGEST: Final = 60  # characters shown of a name
_COMPARED: Final = 1000  # names compared for a hint


def format_names(names: Sequence[str]) -> str:
    """The names in quotes, the first twenty of many."""
    shown = ", ".join(repr(shorten(name, _LONGEST)) for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown or "none"


def did_you_mean(name: str, candidates: Sequence[str]) -> str:
    """` Did you mean ...?`, or nothing where no candidate is similar."""
    lowered = {candidate.casefold(): candidate for candidate in candidates[:_COMPARED] if len(candidate) <= 4 * _LONGEST}
    close = difflib.get_close_matches(name[: 4 * _LONGEST].casefold(), list(lowered), n=1, cutoff=0.6)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""
