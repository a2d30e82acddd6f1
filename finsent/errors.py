"""Everything finsent raises on purpose, and how values are shown in its messages.

    FinsentError
    ├── ConfigError          a profile or configuration value is wrong (ValueError)
    ├── InputError           a file, column, label or argument is wrong (ValueError)
    │   ├── TrackingError    MLflow answers, and says no to a request
    │   └── UnclearSourceError  a source can be read in more than one way
    ├── BaseModelError       the base model cannot be reached or is not what was asked for
    ├── NoChampionError      no version carries the alias `champion` yet (LookupError)
    ├── ServiceError         a server, store or network does not answer; the same call may succeed later (ConnectionError)
    ├── DeviceError          a device, or the process that works on it, failed or died (RuntimeError)
    └── CheckFailed          a check or gate said no
        └── ArtifactError    an adapter does not match its manifest

Messages say what was wrong (the value quoted), where (file, row, configuration key) and what to do.
The command line alone turns them into exit codes: `CheckFailed` 1, all others 2. `retryable` says whether the same call may
succeed later; each edge translates its library's exceptions into these, so that nothing else decides it.
"""

import difflib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

_SHOWN: Final = 20
_LONGEST: Final = 60  # characters shown of a name
_REASON: Final = 600  # characters shown of a foreign error
_COMPARED: Final = 1000  # names compared for a hint
_ACTING: Final = re.compile(
    r"(?<![\u0600-\u0dff\u2190-\u2bff\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]"
    r"|[\u200c\u200d](?![\u0600-\u0dff\u2190-\u2bff\U0001f000-\U0001faff])"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    r"|[\ud800-\udfff\U000e0000-\U000e007f]"
)


class FinsentError(Exception):
    """Root of the tree."""

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, unchanged."""


class ConfigError(FinsentError, ValueError):
    """A profile or configuration value is wrong."""


class InputError(FinsentError, ValueError):
    """A file, column, label or argument is wrong."""


class TrackingError(InputError):
    """MLflow answers, and says no to a request: no such version, a deleted run, a name taken, a value it does not accept."""

    def __init__(self, message: str, error_code: str = "INTERNAL_ERROR") -> None:
        super().__init__(message)
        self.error_code = error_code
        """MLflow's own, such as RESOURCE_DOES_NOT_EXIST."""


class UnclearSourceError(InputError):
    """A source can be read in more than one way, and none is guessed."""

    def __init__(self, message: str, choices: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.choices = tuple(choices)
        """Settings of the source (fields of `Source`), each of which would decide it."""


class BaseModelError(FinsentError):
    """The base model cannot be reached or is not what was asked for."""


class NoChampionError(FinsentError, LookupError):
    """No version carries the alias `champion` yet."""


class ServiceError(FinsentError, ConnectionError):
    """A server, store or network does not answer; the same call may succeed later."""

    retryable = True


class DeviceError(FinsentError, RuntimeError):
    """A device, or the process that works on it, failed or died."""


class CheckFailed(FinsentError):  # noqa: N818 - a refusal is an outcome, its name is the domain's
    """A check or gate said no."""


class ArtifactError(CheckFailed):
    """An adapter does not match its manifest."""


class RunEnded(KeyboardInterrupt):
    """Whoever started this work ended it while it could not notice: it stops as by Ctrl-C, what was committed stays."""


def format_names(names: Sequence[str], shown: int = _SHOWN) -> str:
    """The names in quotes, the first twenty of many; cut, since they may come from malformed files."""
    listed = ", ".join(repr(shorten(name, _LONGEST)) for name in names[:shown])
    return f"{listed} and {len(names) - shown} more" if len(names) > shown else listed or "none"


def did_you_mean(name: str, candidates: Sequence[str]) -> str:
    """` Did you mean ...?`, or nothing where no candidate is similar."""
    lowered = {candidate.casefold(): candidate for candidate in candidates[:_COMPARED] if len(candidate) <= 4 * _LONGEST}
    close = difflib.get_close_matches(name[: 4 * _LONGEST].casefold(), list(lowered), n=1, cutoff=0.6)
    return f" Did you mean {lowered[close[0]]!r}?" if close else ""


def preview_hint(uri: str) -> str:
    """The command that shows how a file would be read."""
    shown = shlex.quote(escape_control(escape_invalid(uri)))
    return f"`finsent data preview {shown}` shows how it would be read, and the command that reads it."


def quoted(value: object) -> str:
    """A value for a message, shortened; numbers of thousands of digits and endless nests by their type alone."""
    try:
        return shorten(repr(value))
    except (ValueError, RecursionError):  # Python's own limits, both within reach of a JSON file
        return f"<{type(value).__name__} too large to show>"


def one_line(error: BaseException) -> str:
    """What a foreign error says, to be put into a message: on one line, cut, without its final full stop."""
    return shorten(" ".join(str(error).split()), _REASON).rstrip(". ") or type(error).__name__


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it came of, what that came of, and so on; each once."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def shorten(text: str, length: int = 80) -> str:
    """The text cut to at most `length` characters, with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def escape_control(text: str) -> str:
    """The text with backslash escapes for what would act on a terminal or hide: control and bidi characters, invisible ones.

    Line feeds and tabs stay, and joiners stay where emoji and the scripts that need them are joined.
    """
    return _ACTING.sub(_escape_character, text)


def _escape_character(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")


def escape_invalid(text: str) -> str:
    """The text as valid UTF-8, with backslash escapes for invalid bytes (decoded with `surrogateescape`) and lone surrogates."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")
