"""Options that say how files are read: the same wherever a command takes files of tweets."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from finsent.config import Source
from finsent.data.validation.label_mapping import parse_label_map
from finsent.errors import InputError
from finsent.labels import LABELS

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE_OPTIONS: Final = (
    click.option("--text", metavar="COLUMN", help="Column that holds the tweet, a.b for a nested field. Default: text."),
    click.option(
        "--id", metavar="COLUMN|none", help="Column of the tweet's id. Default: of unlabelled tweets, id where the file has it."
    ),
    click.option(
        "--created-at", metavar="COLUMN|none", help="Column of the creation time. Default: created_at, where the file has it."
    ),
    click.option(
        "--date-format",
        metavar="FORM",
        help="Form of the times: day-first, month-first, '%d.%m.%Y %H:%M', excel, s, ms or us. Default: found.",
    ),
    click.option(
        "--format",
        type=click.Choice(["auto", "csv", "tsv", "jsonl", "json", "text", "parquet", "excel"]),
        help="Format of the files; text is one tweet a line. Default: by what they hold.",
    ),
    click.option("--delimiter", metavar="CHARACTER", help="What separates the fields of a CSV file. Default: found."),
    click.option("--encoding", metavar="NAME", help="Encoding of text files, e.g. cp1252. Default: UTF-8."),
    click.option("--skip-rows", metavar="N", type=click.IntRange(min=0), help="Lines, or rows of a sheet, before the table."),
    click.option("--no-header", is_flag=True, help="The first row of the files is a tweet, and names no columns."),
    click.option("--columns", metavar="NAMES", help="With --no-header: the names, with commas. Default: 1,2,3 ..."),
    click.option("--records", metavar="PATH", help="Where a JSON document holds its list of rows, e.g. data.tweets."),
    click.option("--sheet", metavar="NAME", help="Sheet of a workbook."),
)
_LABEL_OPTIONS: Final = (
    click.option(
        "--label",
        multiple=True,
        metavar="COLUMN|CLASS=FILE",
        help="Column that holds the label. Default: label. Or a file whose rows are all of one class, e.g. Bullish=bull.csv.",
    ),
    click.option(
        "--label-map",
        metavar="MAP",
        help="What the file's labels mean, e.g. 0=Bearish,1=Bullish,2=Neutral. Numbers are never guessed.",
    ),
    click.option(
        "--label-bins", metavar="LOW,HIGH", help="The labels are scores: Bearish below LOW, Bullish above HIGH, e.g. '-0.1,0.1'."
    ),
    click.option("--label-value", type=click.Choice(LABELS, case_sensitive=False), help="Class of every row of the files."),
)

LABEL_OPTIONS: Final = ("label", "label_map", "label_bins", "label_value")


def file_options(command: Command) -> Command:
    """Add the options of any file of tweets; the command takes them as `**given`, for `source_settings`."""
    for option in reversed(_FILE_OPTIONS):
        command = option(command)
    return command


def label_options(command: Command) -> Command:
    """Add those of labelled files; `finsent.cli.class_files.take_class_files` comes first, since --label may name files."""
    for option in reversed(_LABEL_OPTIONS):
        command = option(command)
    return command


def source_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, as fields of `finsent.config.Source`.

    Raises:
        InputError: one is not of its form, or two exclude each other.
    """
    settings = {key: value for key, value in given.items() if value is not None and key in Source.model_fields}
    if given.get("no_header"):
        settings["header"] = False
    if given.get("columns") is not None:
        settings["columns"] = tuple(name.strip() for name in given["columns"].split(","))
        if not given.get("no_header"):
            raise InputError(f"--columns {given['columns']!r} names the columns of files without a header. Add --no-header.")
    delimiter = given.get("delimiter")
    if delimiter is not None and len(delimiter) != 1 and delimiter != "\\t":
        raise InputError(f"--delimiter {delimiter!r} is not one character. Give one such as ';', or \\t for a tab.")
    others = given_options({name: given.get(name) for name in ("label", "label_map", "label_bins")})
    if given.get("label_value") is not None and others:
        raise InputError(
            f"--label-value {given['label_value']} is the class of every row, and {others[0]} says how labels are read. "
            "Leave one out."
        )
    if (labels := parse_label_map(given.get("label_map"))) is not None:
        settings["labels"] = labels
    if given.get("label_bins") is not None:
        settings["label_bins"] = _parse_bins(given["label_bins"])
    return settings


def option_words(settings: Mapping[str, Any]) -> list[str]:
    """Fields of `finsent.config.Source` as the options that give them: the reverse of `source_settings`."""
    words = []
    for name, value in settings.items():
        option, text = f"--{name.replace('_', '-')}", str(value)
        if name == "header":
            words += [] if value else ["--no-header"]
            continue
        if name == "labels":
            option, text = "--label-map", ",".join(f"{key}={label}" for key, label in value.items())
        elif name == "label_bins":
            text = ",".join(f"{bound:g}" for bound in value)
        elif name == "columns":
            text = ",".join(value)
        elif text == "\t":
            text = "\\t"
        # a value that begins so must not look like an option of its own
        words += [f"{option}={text}"] if text.startswith("-") else [option, text]
    return words


def given_options(given: Mapping[str, Any]) -> list[str]:
    """The options that were given, as they are written, for a message."""
    return [
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value!r}")
        for name, value in given.items()
        if value is not None and value is not False and value != ()
    ]


def _parse_bins(given: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in given.split(","))
    except ValueError:
        low = high = float("nan")
    if not low <= high:
        raise InputError(f"--label-bins {given!r} is not LOW,HIGH, two numbers in order such as '-0.1,0.1'.")
    return low, high
