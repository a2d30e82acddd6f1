"""Checks the label values that a source holds, before anything is written: each must have a class, but for rare ones.

The usual vocabularies are offered as a map to copy, and never applied: datasets disagree on what a value means.
"""

import shlex
from collections import Counter
from collections.abc import Container, Mapping
from typing import Final

from finsent.config import Source
from finsent.data.validation.label_mapping import label_number, parse_label
from finsent.data.validation.label_vocabulary import are_scores, offered_classes
from finsent.errors import InputError, escape_control, escape_invalid, preview_hint, shorten
from finsent.labels import LABELS

RARE_SHARE: Final = 0.01
"""Share of a source's labelled rows up to which values without a class are faults of their rows; a single row always is."""
_SHOWN: Final = 12


def check_label_values(
    source: Source, seen: Counter[str], elsewhere: Container[str] = frozenset(), *, check: bool = True
) -> list[str]:
    """Check the values `seen` (rows by `label_mapping.label_key`, blank ones left out); returns warnings.

    Of the map a key counts as used, too, where it occurs `elsewhere` in the source.

    Raises:
        InputError: no value is understood; or, with `check`, more than a few rows have one without a class, or the map has a key
            that occurs nowhere beside a value that has none, or one that in another letter case means something else.
    """
    if source.label_value is not None or not seen:
        return []
    # the name of the column itself: the header repeated within the file, as where files were put together
    seen = Counter({value: n for value, n in seen.items() if value != source.label or len(seen) == 1})
    unknown = Counter({value: n for value, n in seen.items() if parse_label(value, source.labels, source.label_bins) is None})
    in_any_case = {value.casefold(): value for value in reversed(seen)}
    unused = {
        key: in_any_case.get(key.strip().casefold())
        for key in source.labels or {}
        if key.strip() not in seen and key.strip() not in elsewhere
    }
    n = unknown.total()
    rare = not unused and n <= max(1, RARE_SHARE * seen.total())
    # class names are understood in any letter case, so that such a key would be passed over
    classes = {key: (label, parse_label(unused.get(key) or "", source.labels)) for key, label in (source.labels or {}).items()}
    overruled = check and any(read is not None and read != label for label, read in classes.values())
    if not overruled and (not unknown or (n < seen.total() and (rare or not check))):
        return [f"{source.uri!r}: {_unused(unused)} in column {source.label!r}. Values: {_counted(seen)}"] if unused else []
    if overruled and not unknown:
        problem = f"the map says otherwise than the class names in column {source.label!r}. Values: {_counted(seen)}."
    elif n == seen.total():
        problem = f"no label in column {source.label!r} is understood. Values: {_counted(unknown)}."
    else:
        problem = (
            f"{n} of {seen.total()} rows have a label in column {source.label!r} that is not understood: {_counted(unknown)}."
        )
    if unused:
        problem += f" And of the map, {_unused(unused)}."
    skip = "" if n in (0, seen.total()) else " To leave those rows in the quarantine instead: --set data.check_labels=false."
    raise InputError(f"{source.uri!r}: {problem} {label_map_advice(source, seen)}{skip} Nothing was written.")


def label_map_advice(source: Source, seen: Mapping[str, int]) -> str:
    """The map or the bins to give for these values, to be copied."""
    if are_scores(seen):
        numbers = sorted(number for value in seen if (number := label_number(value)) is not None)
        return (
            f"These are scores, from {numbers[0]:g} to {numbers[-1]:g}: say from where on they are a class, for example "
            "--label-bins '-0.1,0.1' (in YAML `label_bins: [-0.1, 0.1]`): Bearish below the first, Bullish above the second. "
            f"{preview_hint(source.uri)}"
        )
    offered = offered_classes(seen, source.labels)
    several = [value for value in seen if value not in offered and label_number(value) is None and _holds_several(value)]
    if several and len(seen) > 1:
        return (
            "Values hold several labels or probabilities: a row has one class. Make a column of it first, such as "
            "`df['label'] = df[['neutral', 'bullish', 'bearish']].idxmax(axis=1)` for probabilities in three columns, or drop "
            "the rows with several."
        )
    if len(offered) == len(seen):
        return (
            f"If they mean what they usually do: {_option(offered)} (in YAML `labels: {_yaml(offered)}`). Check it with the "
            "source's description: it is offered, never guessed."
        )
    values = {value: offered.get(value, "CLASS") for value in seen}
    look = preview_hint(source.uri)
    numbers_only = all(label_number(value) is not None for value in seen)
    return f"Say what they mean, one of {', '.join(LABELS)}: {_option(values)} (in YAML `labels`)." + (
        f" Numbers are never guessed: datasets disagree on their order, e.g. --label-map '0=Bearish,1=Bullish,2=Neutral'. {look}"
        if numbers_only
        else ""
    )


def _holds_several(value: str) -> bool:
    return any(mark in value.strip("[]") for mark in ",;|[")


def _option(mapping: Mapping[str, str]) -> str:
    shown = list(mapping.items())[:_SHOWN]
    more = ",..." if len(mapping) > _SHOWN else ""
    # a value such as -1 in front must not look like an option of its own
    return ("--label-map=" if next(iter(mapping), "").startswith("-") else "--label-map ") + shlex.quote(
        ",".join(f"{_clean(value)}={label}" for value, label in shown) + more
    )


def _yaml(mapping: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_clean(value)!r}: {label}" for value, label in list(mapping.items())[:_SHOWN]) + "}"


def _unused(keys: Mapping[str, str | None]) -> str:
    said = [
        repr(_clean(key)) + (f" ({_clean(other)!r} does, and letter case counts)" if other else "")
        for key, other in list(keys.items())[:_SHOWN]
    ]
    said += [f"and {len(keys) - _SHOWN} more"] if len(keys) > _SHOWN else []
    return ", ".join(said) + (" occurs" if len(keys) == 1 else " occur") + " nowhere"


def _counted(values: Counter[str]) -> str:
    shown = ", ".join(f"{_clean(value)!r} ({n} rows)" for value, n in values.most_common(10))
    return shown + (f" and {len(values) - 10} more" if len(values) > 10 else "")


def _clean(value: str) -> str:
    return escape_control(escape_invalid(shorten(value)))
