"""Progress bars on a terminal, silence in a pipe; always on stderr, so that stdout stays for results."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def track(iterable: Iterable[T], *, description: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yield from `iterable` behind a progress bar when stderr is a terminal."""
    from tqdm import tqdm

    yield from tqdm(iterable, total=total, desc=description, unit=unit, disable=None, leave=False)
