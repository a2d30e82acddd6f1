"""Sources that are held out by name: a name that is spelled wrongly would hold nothing out, and send its rows into training."""

import logging
from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

from finsent.data.sources.resolve import COMPRESSIONS, FORMATS
from finsent.data.splits import SplitRule
from finsent.data.validation.did_you_mean import did_you_mean, format_names
from finsent.errors import ConfigError

_log = logging.getLogger(__name__)

_ENDINGS: Final = FORMATS.keys() | COMPRESSIONS.keys()


def check_heldout_sources(rule: SplitRule, names: Iterable[str]) -> None:
    """Hold the names that a split by source asks for against the sources there are; other splits have none.

    A source that is still to come is nobody's mistake, so that a name without one is only warned of. It is an error where a
    source is there whose name differs from it by case, punctuation or a file's ending alone.

    Args:
        rule: How rows are split.
        names: Sources in the data and in this ingestion.

    Raises:
        ConfigError: a name is surely spelled wrongly.
    """
    known = sorted(set(names))
    by_spelling = {_spelling_key(name): name for name in known}
    for setting, asked in (("data.validation_sources", rule.validation_sources), ("data.test_sources", rule.test_sources)):
        unknown = [name for name in asked if name not in known]
        for name in unknown:
            if (meant := by_spelling.get(_spelling_key(name))) and meant not in (*rule.validation_sources, *rule.test_sources):
                raise ConfigError(
                    f"{setting} names {name!r}, and the source is called {meant!r}: it would not be held out. Sources: "
                    f"{format_names(known)}. Correct the setting, or name the source (its `name`, --name) as the setting does. "
                    "Nothing was written."
                )
        if unknown:
            _log.warning(
                "%s: there is no source %s yet, so that nothing is held out by that name. Sources: %s.%s",
                setting,
                format_names(unknown),
                format_names(known),
                did_you_mean(unknown[0], known),
            )


def _spelling_key(name: str) -> str:
    """The name without case, punctuation and a file's endings."""
    path = PurePath(name.strip())
    while path.suffix.lower() in _ENDINGS:
        path = path.with_suffix("")
    return "".join(filter(str.isalnum, path.name.casefold())) or name
