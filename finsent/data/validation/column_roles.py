"""Proposes, for a preview, which columns of a file hold tweet, label, time and id: by their values, then by their names. Pure.

Reading never uses a proposal: a person sees it, with the command that applies it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from finsent.data.validation.dates import is_missing, read_column
from finsent.data.validation.ids import find_id_column
from finsent.data.validation.label_mapping import label_key, label_number, parse_label
from finsent.data.validation.label_vocabulary import usual_class
from finsent.data.validation.row_validation import check_id

Columns = Mapping[str, Sequence[object]]
"""Sample values by column."""

_TEXTS: Final = (
    "full_text text tweet tweet_text tweets tweet_content body content message raw_content rawcontent",
    "sentence headline post comment title news review document",
    "clean_text cleaned_text clean_tweet processed_text description",
)
"""Usual names without case and signs, the likeliest first; those of one line are equally likely."""
_LABELS: Final = (
    "label labels sentiment sentiments sentiment_label class target polarity category annotation feeling emotion mood opinion",
    "annotations airline_sentiment majority_sentiment gold y basic tag stance",
    "score sentiment_score rating stars compound",
    "stimmung klasse bewertung einstufung haltung sentimiento etiqueta clase sentimento etichetta classe étiquette klass",
)
_TIMES: Final = (
    "created_at createdat created created_utc created_time date timestamp time datetime date_time posted posted_at posted_on "
    "post_date published published_at publication_date tweet_created tweet_created_at tweet_date tweeted_at written ts day"
)
_URL_NAMES: Final = frozenset({"url", "link", "permalink", "tweet_url", "uri", "tweet_link"})
_OF_OTHERS: Final = re.compile(
    r"(?:^|\.)(?:user|author|account|profile|retweeted|quoted|source|place|media|urls?|symbols)\w*\.", re.IGNORECASE
)
"""Paths within what is not the tweet: its author was created, and has an id, too."""
_MOST_CLASSES: Final = 20
FEWEST_WORDS: Final = 3
"""Of a sentence, on average."""
_WORD: Final = re.compile(r"[^\W\d_]{2,}")
_STATUS_URL: Final = re.compile(r"https?://\S+/\d{5,}\S*")
_NEARLY_ALL: Final = 0.9
_LONG_ID: Final = 15
_MOST_NUMBERED: Final = 5
_YES: Final = frozenset({"yes", "y", "ja", "oui", "sí", "si", "x", "✓", "✔", "true"})
_NO: Final = frozenset({"no", "n", "nein", "non", "false", "-"})
_MOST_CANDIDATES: Final = 4
_ENOUGH: Final = 500
_MARKED: Final = re.compile(r"https?://|(?<!\w)[@$][A-Za-z]\w+")


def value_type(values: Sequence[object]) -> str:
    """The type of a column's values: text, integer, number, yes or no, list, object, a time, mixed, or empty."""
    kinds = {_kind(value) for value in values if not is_missing(value)}
    if len(kinds) > 1 and kinds <= {"integer", "number"}:
        return "number"
    return kinds.pop() if len(kinds) == 1 else "text" if kinds and "text" in kinds else "mixed" if kinds else "empty"


def _kind(value: object) -> str:
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().casefold() in ("true", "false")):
        return "yes or no"
    if isinstance(value, datetime):
        return "time"
    if isinstance(value, dict):
        return "object"
    if isinstance(value, list | tuple):
        return "list"
    number = _number(value)
    if number is None:
        return "text"
    whole = isinstance(value, int) or (isinstance(value, str) and value.strip().lstrip("+-").isdecimal())
    return "integer" if whole else "number"


def _number(value: object) -> float | None:
    if not isinstance(value, int | float | str) or (isinstance(value, str) and len(value) > 40):
        return None
    if isinstance(value, str):
        return label_number(value)  # with a decimal comma, too
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def looks_like_row(names: Sequence[str], columns: Sequence[Sequence[object]]) -> bool:
    """Whether the names of columns are the values of a first row: those of tweets, or such as the rows below have again.

    Args:
        names: The first row.
        columns: The values below each.
    """
    again, fitting, marked = 0, 0, False
    for name, values in zip(names, columns, strict=True):
        there = [value for value in values if not is_missing(value)]
        same = sum(str(value).strip() == name for value in there)
        again += same > 0 and (same > 1 or len(there) < _MOST_CLASSES) and name != ""
        if len(name.split()) > FEWEST_WORDS and mean_words(there) >= FEWEST_WORDS:
            marked |= bool(_MARKED.search(name)) or len(name.split()) > 2 * FEWEST_WORDS - 1
        number = _number(name)
        fitting += number is not None and bool(there) and all(_number(value) is not None for value in there)
    numbered = any(list(names) == [str(number + start) for number in range(len(names))] for start in (0, 1))
    repeated = again == len(names) > 1  # the header again, where files were put together
    return marked or (again > 0 and not repeated) or (fitting > 0 and not numbered)


def text_columns(columns: Columns, now: datetime) -> list[str]:
    """Columns that may hold tweets, all of them equally likely."""
    sentences = {name: mean_words(values) for name, values in columns.items() if value_type(values) == "text"}
    for tier in _TEXTS:
        for fewest in (FEWEST_WORDS - 1, 1):
            named = [name for name in _named(columns, tier) if sentences.get(name, 0) >= fewest]
            if "text" in named:  # with what is beside it where it was cut short
                return ["text"]
            if named:
                return _different(_shallowest(named), columns)
    long = {
        name: words
        for name, words in sentences.items()
        if words >= FEWEST_WORDS
        and not _OF_OTHERS.search(name)
        and not _are_dates(columns[name], now)
        and _distinct(columns[name])
    }
    most = max(long.values(), default=0)
    return _different([name for name, words in long.items() if words > most / 2], columns)


def _different(names: Sequence[str], columns: Columns) -> list[str]:
    """The names without those of columns that hold the same as an earlier one."""
    found: list[str] = []
    for name in names:
        if all(columns[name] != columns[other] for other in found):
            found.append(name)
    return found


def label_columns(columns: Columns, texts: Sequence[str], now: datetime) -> list[str]:
    """Columns that may hold labels, all of them equally likely; those that hold classes by name before others, times never."""
    others = _no_texts_or_times(columns, texts, now)
    few = {name: values for name, values in others.items() if _are_classes(values)}
    understood = [name for name, values in few.items() if _are_understood(values)]
    scores = {name: values for name, values in others.items() if value_type(values) in ("number", "integer")}
    for tier in _LABELS:
        named = _shallowest(_named({name: values for name, values in others.items() if name in few or name in scores}, tier))
        # `target` may be the share that a tweet is about
        named = [name for name in named if name in scores or name in understood or _recurs(others[name])] or named
        if best := [name for name in named if name in understood]:
            return _first(best)
        if not understood and named:
            return _first([name for name in named if name in few] or named)
    if understood:
        return understood
    if "label" in others and value_type(others["label"]) not in ("empty", "object") and not _holds_objects(others["label"]):
        return ["label"]
    plausible = [name for name, values in few.items() if _may_be_classes(name, values)]
    return plausible if len(plausible) == 1 else []


def label_candidates(columns: Columns, others: Sequence[str | None], now: datetime) -> list[str]:
    """Columns to look at where none is called as labels are: of few values, or scores from -1 to 1; those of fewest values first.

    Args:
        columns: Sample values by column.
        others: Those that hold something else.
        now: Current time.
    """
    marks = class_columns(columns)
    found = {}
    for name, values in _no_texts_or_times(columns, [name for name in others if name is not None], now).items():
        n, numbers = len({label_key(value) for value in values if not is_missing(value)}), [_number(value) for value in values]
        scores = [number for number in numbers if number is not None]
        is_score = len(scores) > _NEARLY_ALL * len(values) and min(scores) < 0 and max(map(abs, scores)) <= 1
        if name not in marks and (is_score or (_are_classes(values) and _may_be_classes(name, values))):
            found[name] = n
    return sorted(found, key=lambda name: found[name])[:_MOST_CANDIDATES]


def _no_texts_or_times(columns: Columns, texts: Sequence[str], now: datetime) -> Columns:
    own = {name: values for name, values in columns.items() if name not in texts and not _OF_OTHERS.search(name)}
    return {
        name: values
        for name, values in own.items()
        if not ((value_type(values) in ("text", "time") or _plain(name) in _TIMES.split()) and _are_dates(values, now))
    }


def _holds_objects(values: Sequence[object]) -> bool:
    return any(isinstance(value, list) and any(isinstance(item, list | dict) for item in value) for value in values)


def _first(names: list[str]) -> list[str]:
    """`label` alone where it is among them: it is what is read unless told."""
    return ["label"] if "label" in names else names


def time_columns(columns: Columns, now: datetime, beside: str = "") -> list[str]:
    """The column that holds the times first, or none: a name for times, and values that are; else text that is times alone.

    One whose values vary comes before one that has the same in every row, which is the time of an export or of labelling; then
    one in the object that has the column `beside`. Those that it was preferred to follow.
    """
    own = {name: values for name, values in columns.items() if not _OF_OTHERS.search(name)}
    named = [name for name in _named(own, _TIMES) if _are_dates(own[name], now)]
    other = [name for name, values in own.items() if value_type(values) in ("text", "time") and name not in named]
    found = named + [name for name in other if _are_dates(own[name], now)]
    parent = beside.rpartition(".")[0]

    def order(name: str) -> tuple[bool, bool, bool, int]:
        return (not varies(own[name]), name not in named, name.rpartition(".")[0] != parent, name.count("."))

    return sorted(found, key=order)


def varies(values: Sequence[object]) -> bool:
    """Whether a column has more than one value."""
    return len({str(value) for value in values if not is_missing(value)}) > 1


def id_column(columns: Columns) -> tuple[str | None, str]:
    """The column that looks like the ids of tweets, and why; None and why not."""
    own = {name: values for name, values in columns.items() if not _OF_OTHERS.search(name)}
    # nested names are judged by their last part
    plain = {_plain(name).replace("_", "") if "." in name else name: name for name in reversed(list(own))}
    found, why = find_id_column({short: own[name] for short, name in plain.items()})
    for short, name in plain.items():
        if why.startswith(f"{short!r}"):
            why = why.replace(f"{short!r}", f"{name!r}", 1)
            break
    if found is not None:
        return plain[found], why
    for name, values in own.items():
        there = [str(value).strip() for value in values if isinstance(check_id(value), str)]
        if len(there) < _NEARLY_ALL * len(values) or len(set(there)) < _NEARLY_ALL * len(there) or not there:
            continue
        if all(value.isdecimal() and len(value) >= _LONG_ID for value in there):
            return name, f"{name!r}: {len(set(there))} different long numbers in {len(there)} rows"
        if _plain(name) in _URL_NAMES and all(_STATUS_URL.fullmatch(value) for value in there):
            return name, f"{name!r}: {len(set(there))} different addresses of posts in {len(there)} rows"
    return None, why


def class_columns(columns: Columns) -> list[str]:
    """Columns that are called as classes are and hold numbers or marks: one for each class."""
    named = [name for name in columns if usual_class(_plain(name)) is not None and not _plain(name).lstrip("-").isdecimal()]
    named = [name for name in named if value_type(columns[name]) in ("number", "integer", "yes or no") or marks(columns[name])]
    return named if len(named) > 1 else []


def marks(values: Sequence[object]) -> list[str]:
    """The values of a column of words that mean yes, such as Yes or x; none where it holds anything but yes and no."""
    if value_type(values) != "text":
        return []
    there = {str(value).strip() for value in values if not is_missing(value)}
    return sorted(value for value in there if value.casefold() in _YES) if {v.casefold() for v in there} <= _YES | _NO else []


def nested_labels(columns: Columns) -> list[str]:
    """Columns called as labels are that hold lists of objects, as exports of labelling tools do."""
    return [name for tier in _LABELS for name in _named(columns, tier) if _holds_objects(columns[name])]


def _plain(name: str) -> str:
    """The last part of a path, without case and signs."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.rsplit(".", 1)[-1].strip())
    return re.sub(r"[\s_-]+", "_", spaced).casefold().strip("_\"'")


def _named(columns: Columns, usual: str) -> list[str]:
    """Columns of these names, or at a path that ends in one, in the order of the names."""
    names = usual.split()
    found = [name for name in columns if not _OF_OTHERS.search(name) and _plain(name) in names]
    return sorted(found, key=lambda name: names.index(_plain(name)))


def _shallowest(names: Sequence[str]) -> list[str]:
    least = min((name.count(".") for name in names), default=0)
    return [name for name in names if name.count(".") == least]


def mean_words(values: Sequence[object]) -> float:
    """Words of a value that is text, on average."""
    texts = [value for value in values if isinstance(value, str) and not is_missing(value)]
    # scripts that put no space between words
    words = sum(max(len(_WORD.findall(text)), 0 if text.isascii() else len(text) // 12) for text in texts)
    return words / max(1, len(texts))


def _distinct(values: Sequence[object]) -> bool:
    there = [str(value) for value in values if not is_missing(value)]
    return len(there) >= len(values) / 2 and len(set(there)) > max(1, len(there) / 10)  # of a stream most may be retweets


def _may_be_classes(name: str, values: Sequence[object]) -> bool:
    """Whether a column of any name may hold classes: two or more values that come again, and no more numbers than there are."""
    kind, distinct = value_type(values), len({label_key(value) for value in values if not is_missing(value)})
    most = {"text": _MOST_CLASSES, "integer": _MOST_NUMBERED}.get(kind, 0)
    return 1 < distinct <= most and _recurs(values) and not re.search(r"(?:^|_)(?:id|ids|count|user|author)$", _plain(name))


def _recurs(values: Sequence[object]) -> bool:
    there = [label_key(value) for value in values if not is_missing(value)]
    return len(set(there)) <= len(there) / 2


def _are_classes(values: Sequence[object]) -> bool:
    there = {label_key(value) for value in values if not is_missing(value)}
    several = any(isinstance(value, list | tuple) and (len(value) > 1 or _holds_objects([value])) for value in values)
    return 0 < len(there) <= _MOST_CLASSES and not several and value_type(values) not in ("object", "time")


def _are_understood(values: Sequence[object]) -> bool:
    """Whether most values are names of classes, or words that usually mean one."""
    there = [label_key(value) for value in values if not is_missing(value)]
    known = sum(
        parse_label(value, None) is not None or (usual_class(value) is not None and _number(value) is None) for value in there
    )
    return known > len(there) / 2


def _are_dates(values: Sequence[object], now: datetime) -> bool:
    found = read_column([value for value in values if not is_missing(value)][:_ENOUGH], now)
    return found.dates > 0 and (bool(found.choices) or found.unreadable <= (1 - _NEARLY_ALL) * found.dates)
