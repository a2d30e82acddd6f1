"""`--label Bullish=bull.csv`: files that hold the tweets of one class each, beside `--label COLUMN`."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final, NamedTuple

from finsent.config import Source
from finsent.data.sources.records import COMPRESSIONS, FORMATS
from finsent.data.validation.label_mapping import parse_label
from finsent.data.validation.label_vocabulary import usual_class
from finsent.errors import InputError, did_you_mean
from finsent.labels import LABELS

_OTHERS: Final = ("label_map", "label_bins", "label_value")


class ClassFile(NamedTuple):
    """An address whose rows are all of one class."""

    label: str
    uri: str


def take_class_files(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[ClassFile]]:
    """The options with `label` as the column that was named, if one was, and the files by class that --label names.

    Raises:
        InputError: two columns, both a column and files, another option about labels beside files, or a file for two classes.
    """
    found = [(value, _parse(value)) for value in given["label"]]
    columns = [value for value, file in found if file is None]
    files = [file for _, file in found if file is not None]
    if len(columns) > 1:
        raise InputError(f"--label names several columns, {columns[0]!r} and {columns[1]!r}. A tweet has one label: give one.")
    if files and columns:
        raise InputError(
            f"--label {columns[0]!r} names a column, and --label {files[0].label}={files[0].uri} a file of one class. Files "
            "with a column of labels need a command of their own."
        )
    if files and (other := next((name for name in _OTHERS if given.get(name) is not None), None)):
        raise InputError(
            f"--{other.replace('_', '-')} {given[other]!r} is for files with labels, and --label {files[0].label}={files[0].uri} "
            "says the class of a whole file. Leave one out."
        )
    classes: dict[str, str] = {}
    for label, uri in files:
        if classes.setdefault(uri, label) != label:
            raise InputError(f"--label gives {uri!r} to two classes, {classes[uri]} and {label}. Each file has one.")
    return {**given, "label": columns[0] if columns else None}, list(dict.fromkeys(files))


def require_no_other_files(files: Sequence[str], by_class: Sequence[ClassFile]) -> None:
    """Check that no files are given beside those of one class each: it would be open how these are labelled.

    Raises:
        InputError: there are.
    """
    if files and by_class:
        raise InputError(
            f"{files[0]!r} is given beside --label {by_class[0].label}={by_class[0].uri}. Give each file once: by its class, or "
            "in a command of its own where it has a column of labels."
        )


def class_sources(by_class: Sequence[ClassFile], settings: Mapping[str, Any]) -> tuple[Source, ...]:
    """A source for each of the files."""
    return tuple(Source.model_validate({**settings, "uri": uri, "label_value": label}) for label, uri in by_class)


def _parse(value: str) -> ClassFile | None:
    """The file of a class; None where it is the name of a column, which may hold an equals sign.

    Raises:
        InputError: a class without a file, or a file with a class that there is not.
    """
    name, found, uri = value.partition("=")
    label = parse_label(name, None)
    if not found:
        return None
    if label is not None:
        if not uri.strip():
            raise InputError(f"--label {value!r} names no file. Give it as {label}=FILE.")
        return ClassFile(label, uri)
    meant = usual_class(name)
    hint = f" Did you mean {meant!r}?" if meant else did_you_mean(name.strip(), LABELS)
    is_file = "://" in uri or bool({suffix.lower() for suffix in PurePath(uri).suffixes} & (FORMATS.keys() | COMPRESSIONS.keys()))
    if hint or is_file:
        raise InputError(
            f"--label {value!r}: {name!r} is no class. Classes are {', '.join(LABELS)}.{hint} A column that is called "
            "so is named by `label` of a source in the configuration."
        )
    return None
