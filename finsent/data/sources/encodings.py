"""Text files in another encoding than UTF-8: found by their lines, and named as well as it can be told.

Which rows such a file would lose is not by chance: names, currencies, emoji. So it stops before anything is written.
"""

import re
from collections.abc import Iterator
from typing import AnyStr, Final

from finsent.data.sources.records import SourceFile
from finsent.errors import InputError, UnclearSourceError

_INVALID: Final = re.compile("[\ud800-\udfff]")
_SAMPLE: Final = 1 << 16
_FEW_BROKEN: Final = 0.001
"""Share of lines up to which invalid ones are faults of their own, and not the file's encoding."""
_UNDEFINED: Final = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")  # no character of Windows-1252


def decodable_lines(lines: Iterator[AnyStr], encoding: str, file: SourceFile) -> Iterator[AnyStr]:
    """The lines. At their end it is an error if each with a letter beyond ASCII was in another encoding than the file's.

    Raises:
        InputError: so it was, and no encoding was given.
    """
    if encoding != "utf-8" or file.source.encoding is not None:
        yield from lines
        return
    total, good, bad, sample = 0, 0, 0, b""
    for line in lines:
        total += 1
        if not line.isascii():
            if _is_invalid(line):
                bad += 1
                if len(sample) < _SAMPLE:
                    sample += line if isinstance(line, bytes) else line.encode("utf-8", "surrogateescape")
            else:
                good += 1
        yield line
    if bad > max(1, _FEW_BROKEN * total) and not good:
        name = likely_encoding(sample)
        raise UnclearSourceError(
            f"{file.uri!r}: {bad} lines are not UTF-8, and no other has a letter beyond ASCII: the file is in another encoding. "
            f"It may be {name}: --encoding {name}. Nothing was written.",
            [{"encoding": name}],
        )


def likely_encoding(sample: bytes) -> str:
    """Which encoding text that is not UTF-8 may have, of which `sample` is some."""
    from charset_normalizer import from_bytes

    sample = sample[:_SAMPLE]  # a line may be long, and the search tries every encoding on all of it
    runs = re.findall(rb"[\x80-\xff]+", sample)
    # letters of Western languages stand alone among ASCII; charset-normalizer tells those alphabets apart by chance
    western = sum(len(run) == 1 for run in runs) > len(runs) / 2 and not _UNDEFINED.search(sample)
    best = None if western else from_bytes(sample).best()
    return "cp1252" if best is None else best.encoding


def explain_document(uri: str, head: bytes, error: BaseException | None) -> InputError | None:
    """What to raise about a JSON document that begins with `head`, where the error is one of its encoding; else None."""
    if not (isinstance(error, UnicodeDecodeError) or "invalid bytes in UTF8 string" in str(error)):
        return None
    runs = re.findall(rb"[\x80-\xff]+", head)
    if runs and all(map(_is_invalid, runs)):
        name = likely_encoding(head)
        what = f"{uri!r} is a JSON document in another encoding than UTF-8"
        return UnclearSourceError(f"{what}. It may be {name}: --encoding {name}. Nothing was written.", [{"encoding": name}])
    return InputError(
        f"{uri!r} is a JSON document with bytes that are not UTF-8. Give its encoding (--encoding NAME), or write it again. "
        "Nothing was written."
    )


def _is_invalid(line: str | bytes) -> bool:
    if isinstance(line, str):
        return _INVALID.search(line) is not None
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    return False
