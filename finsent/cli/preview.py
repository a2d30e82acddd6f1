"""`finsent data preview`: how a file would be read, with the command and the YAML that read it so."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finsent.cli.class_files import take_class_files
from finsent.cli.data import data_group
from finsent.cli.options import CommandResult, Settings, examples, suggest_command
from finsent.cli.output import Renderable, cell_text, lines, paragraph, plain, section, shorten, stack, table
from finsent.cli.source_options import file_options, given_options, label_options, option_words, source_settings
from finsent.config import Source
from finsent.environ import is_url
from finsent.errors import InputError, escape_control, escape_invalid, format_names

if TYPE_CHECKING:
    from finsent.data.preview import Preview
    from finsent.data.validation.label_choices import Choice

_COLUMNS_SHOWN = 60
_FILES_SHOWN = 10
_SCORES_SHOWN = 5
_LEFT_OUT_SHOWN = 5


@data_group.command(
    "preview",
    epilog=examples(
        "finsent data preview tweets.csv",
        "finsent data preview day.xlsx --text Post --json",
        "finsent data preview stream.jsonl --inbox",
    ),
)
@click.argument("file", metavar="FILE")
@click.option("--inbox", is_flag=True, help="The file holds unlabelled tweets, for the inbox.")
@file_options
@label_options
@click.option("--query", metavar="SQL", help="Query for a database, where FILE is its SQLAlchemy URL.")
@click.option("--split", metavar="SPLIT", help="Split of a Hub dataset; default: train.")
@click.option("--revision", metavar="REVISION", help="Revision of a Hub dataset: a commit, branch or tag.")
@click.pass_obj
def preview_command(settings: Settings, /, file: str, *, inbox: bool, **given: Any) -> CommandResult:
    """Show how a file would be read; write nothing.

    Shows columns, label values, dates, ids and the first rows as they would be stored; then the command and the YAML that
    read the file so. What is open is not guessed: there is one command for each way to read it.
    """
    from finsent.data.preview import preview_source

    given, by_class = take_class_files(given)
    if by_class:
        raise InputError(
            f"--label {by_class[0].label}={by_class[0].uri}: give the file as FILE, with --label-value for its class"
        )
    of_labels = given_options({name: given[name] for name in ("label", "label_map", "label_bins", "label_value")})
    if inbox and of_labels:
        raise InputError(f"{of_labels[0]} is for labelled tweets, and --inbox for unlabelled ones. Leave one of the two out.")
    found = preview_source(Source(uri=file, **source_settings(given)), settings.config().data, inbox=inbox)
    commands = [_command(found, choice) for choice in found.choices]
    result = {**plain(found), "commands": commands, "yaml": [_yaml(found, choice) for choice in found.choices]}
    return CommandResult(result, _render(found, commands))


def _is_inbox(found: "Preview", choice: "Choice") -> bool:
    return found.inbox and choice.settings.keys().isdisjoint(("label", "label_value")) and not choice.by_file


def _command(found: "Preview", choice: "Choice") -> str:
    """The command that reads the file so, for a shell."""
    if _needs_yaml(found, choice):
        return suggest_command("finsent ingest --config FILE.yaml")
    verb = ["data", "preview"] if choice.look_again else ["ingest", *(["--inbox"] if _is_inbox(found, choice) else [])]
    files = [word for uri, label in choice.by_file.items() for word in ("--label", f"{label}={uri}")]
    files = files or [f"./{found.uri}" if found.uri.startswith("-") else found.uri]
    words = ["finsent", *verb, *files, *option_words(_settings(found, choice))]
    words += ["--set", "data.check_labels=false"] if choice.leaves_out else []
    return suggest_command(shlex.join(words))


def _entries(found: "Preview", choice: "Choice") -> list[tuple[str, dict[str, Any]]]:
    settings = _settings(found, choice)
    by_file = [(uri, settings | {"label_value": label}) for uri, label in choice.by_file.items()]
    return by_file or [(found.uri, settings)]


def _needs_yaml(found: "Preview", choice: "Choice") -> bool:
    """Whether a label value has a comma, by which the option separates them."""
    return any("," in value for value in _settings(found, choice).get("labels") or {})


def _settings(found: "Preview", choice: "Choice") -> dict[str, Any]:
    return {key: value for key, value in (found.given | choice.settings).items() if value is not None}


def _yaml(found: "Preview", choice: "Choice") -> str:
    """The entry of the configuration that reads the file so."""
    import yaml

    entries = [
        {"uri": uri if is_url(uri) else str(Path(uri).absolute())}
        | {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
        for uri, settings in _entries(found, choice)
    ]
    tree: dict[str, Any] = {"scoring" if _is_inbox(found, choice) else "data": {"sources": entries}}
    if choice.leaves_out:
        tree["data"]["check_labels"] = False
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=1000).rstrip()


def _render(found: "Preview", commands: Sequence[str]) -> Renderable:
    return stack(
        section(_said(_layout(found)), *_files(found)),
        _columns(found),
        _labels(found),
        lines(*_dates(found), _said(f"Ids: {found.id_reason}")),
        _rows(found),
        lines(*_outcome(found)),
        *(paragraph(_said(note)) for note in found.notes),
        _commands(found, commands),
    )


def _layout(found: "Preview") -> str:
    formats = {"csv": "CSV", "tsv": "TSV", "jsonl": "JSON lines", "json": "JSON", "excel": "workbook", "parquet": "Parquet"}
    formats["text"] = "one tweet a line"
    parts = [formats.get(found.format, found.format)]
    parts += [f"compressed by {found.compression}"] if found.compression else []
    layout = found.layout
    parts += [layout["encoding"].upper()] if "encoding" in layout else []
    names = {",": "commas", "\t": "tabs"}
    parts += [f"separated by {names.get(mark, repr(mark))}"] if (mark := layout.get("delimiter")) else []
    parts += [f"{name} {layout[name]!r}" for name in ("member", "sheet", "records") if name in layout]
    if found.format in ("csv", "tsv", "excel"):
        parts.append("the first row names the columns" if found.header else "no row of column names")
    more = f"the first {found.rows:,} rows were looked at" if found.bounded else f"{found.rows:,} rows"
    return f"{found.uri}: {', '.join(parts)}; {more}"


def _files(found: "Preview") -> Iterator[Renderable]:
    if len(found.files) > 1:
        more = f" and {len(found.files) - _FILES_SHOWN} more" if len(found.files) > _FILES_SHOWN else ""
        yield _said(f"  {len(found.files)} files: {', '.join(found.files[:_FILES_SHOWN])}{more}; columns of the first")
    if found.left_out:
        yield _said(
            f"  {len(found.left_out)} left out, whose endings are not read: {format_names(found.left_out, _LEFT_OUT_SHOWN)}"
        )


def _columns(found: "Preview") -> Renderable:
    shown = sorted(found.columns, key=lambda column: column.role is None)[:_COLUMNS_SHOWN]
    rows = [
        (_said(c.name), c.role or "", c.type, f"{c.filled:.0%}", _cut(" | ".join(_line(text, 30) for text in c.examples)))
        for c in shown
    ]
    more = f"  and {len(found.columns) - len(shown)} more" if len(found.columns) > len(shown) else ""
    return section("Columns", table(("column", "read as", "type", "filled", "examples"), rows), more)


def _labels(found: "Preview") -> Renderable:
    if not found.labels and not found.unlabelled:
        return ""
    scores = any("label_bins" in choice.settings for choice in found.choices)
    shown = found.labels[:_SCORES_SHOWN] if scores else found.labels
    rows = [(_cut(item.value), item.rows, item.label or "?", _cut(_line(item.example or "", 90))) for item in shown]
    more = f"  and {found.n_labels - len(shown)} more values" if found.n_labels > len(shown) else ""
    blank = f"  {found.unlabelled:,} rows have no label" if found.unlabelled and not found.inbox else ""
    return section("Labels", table(("value", "rows", "class", "a text"), rows) if rows else "", more, blank)


def _dates(found: "Preview") -> Iterator[Renderable]:
    if found.dates is None:
        yield "Dates: none"
        return
    said = f"Dates: column {found.date_column!r}, {found.dates.dates:,} values"
    if len(found.dates.choices) < 2 and found.trial.first is not None and found.trial.last is not None:
        form = "" if found.dates.form is None and found.dates.name != "excel" else f" read as {found.dates.name}"
        said += f"{form}, from {found.trial.first:%Y-%m-%d %H:%M} to {found.trial.last:%Y-%m-%d %H:%M}"
    if found.dates.unreadable and not found.dates.choices:
        said += f"; {found.dates.unreadable:,} unreadable, such as {found.dates.bad}"
    yield _said(said)
    for form, value, moment in found.dates.choices:
        yield _said(f"  {value} read as {form} is {moment:%d %B %Y %H:%M}")


def _rows(found: "Preview") -> Renderable:
    rows = found.trial.rows
    if not rows:
        return ""
    doubt = " ?" if found.dates is not None and len(found.dates.choices) > 1 else ""
    heads: Mapping[str, Any] = {
        "file": [_cut(Path(row.file).name) if len(found.files) > 1 else None for row in rows],
        "row": [row.number for row in rows],
        "label": [row.label for row in rows],
        "created_at": [None if row.created_at is None else f"{row.created_at:%Y-%m-%d %H:%M:%S}{doubt}" for row in rows],
        "id": [None if row.id is None else _line(row.id, 24) for row in rows],
        "flags": [row.flags for row in rows],
        "text": [_cut(_line(row.text, 160)) for row in rows],
    }
    kept = {head: values for head, values in heads.items() if any(value is not None for value in values)}
    return section("The first rows, as they would be stored", table(list(kept), list(zip(*kept.values(), strict=True))))


def _outcome(found: "Preview") -> Iterator[Renderable]:
    trial = found.trial
    if trial.problem is not None:
        yield paragraph(_said(f"It cannot be read so: {trial.problem}"))
        return
    if not trial.read:
        return
    quarantined = sum(trial.rejected.values())
    unlabelled = f" + {trial.unlabelled:,} unlabelled" if trial.unlabelled else ""
    yield f"{trial.read:,} rows read = {trial.taken:,} readable + {quarantined:,} quarantined{unlabelled}"
    for reason, n in trial.rejected.most_common():
        yield _said(f"  {n:,} {reason} ({shorten(trial.examples[reason], 160)})")
    if trial.flags:
        yield "  noted: " + ", ".join(f"{flag} ({n:,})" for flag, n in trial.flags.most_common())


def _commands(found: "Preview", commands: Sequence[str]) -> Renderable:
    from finsent.data.validation.label_choices import CLASS

    problems = [_said(problem) for problem in found.open]
    if not commands:
        again = suggest_command(shlex.join(["finsent", "data", "preview", found.uri, "--text", "COLUMN", "--label", "COLUMN"]))
        return section("Nothing can be proposed", *map(paragraph, problems), f"Say what you know, and look again: {again}")
    looks = {choice.look_again for choice in found.choices}
    verb = "Read it" if not any(looks) else "Look again" if all(looks) else "Look again, or read it,"
    filled = not any(looks) and all(CLASS in (choice.settings.get("labels") or {}).values() for choice in found.choices)
    verb = f"Put a class in place of each {CLASS}, and read it" if filled else verb
    head = f"{verb} with" if len(commands) == 1 else f"Nothing is guessed. {verb} with one of these"
    listed = [
        line
        for choice, command in zip(found.choices, commands, strict=True)
        for line in ([f"  # {_said(choice.why)}"] if choice.why else []) + [f"  {command}"]
    ]
    more = f"  and {found.more_choices} more combinations of the same options" if found.more_choices else ""
    ready = next((choice for choice in found.choices if not choice.look_again), None)
    keys = {key for choice in found.choices for key in choice.settings if _differs(found, key)}
    keys |= {"uri"} if any(choice.by_file for choice in found.choices) else set()
    first = "the first" if ready is found.choices[0] else "of the first that reads it"
    which = f" ({first}; the others differ in {', '.join(sorted(keys))})" if len(commands) > 1 else ""
    asked = section(head, *map(paragraph, problems), *listed, more)
    if ready is None:
        return asked
    if any(_needs_yaml(found, choice) for choice in found.choices):
        files = [section(choice.why or "Otherwise", _said(_yaml(found, choice))) for choice in found.choices]
        return stack(asked, "The label map cannot be an option: values hold commas. Put into FILE.yaml one of:", *files)
    return stack(
        asked,
        section(f"The same in the configuration{which}", _said(_yaml(found, ready))),
    )


def _differs(found: "Preview", key: str) -> bool:
    return len({cell_text(choice.settings.get(key)) for choice in found.choices}) > 1


def _line(text: str, width: int) -> str:
    return shorten(_said(text), width)


def _said(text: str) -> str:
    return escape_control(escape_invalid(text))


def _cut(text: str) -> Any:
    """A cell that is cut where the terminal ends, and not folded."""
    from rich.text import Text

    return Text(_said(text).replace("\n", "\\n"), no_wrap=True, overflow="ellipsis")
