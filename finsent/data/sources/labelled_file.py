"""Reads labelled sources into memory, to evaluate a model on them; nothing is stored."""

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from finsent.config import DataConfig, Source
from finsent.data.dataset import Split
from finsent.data.pooled_labels import SourcePolarity
from finsent.data.sources.column_times import SourceTimes
from finsent.data.sources.file_counts import FileCounts, count_file
from finsent.data.sources.reading import check_values, read_validated
from finsent.data.sources.records import NO_COLUMN, Row, labelled_columns
from finsent.data.sources.resolve import require_one_class, resolve
from finsent.data.validation.label_check import PolarityStats
from finsent.data.validation.text_repair import FLAG_SEPARATOR, format_flags
from finsent.errors import InputError
from finsent.labels import LABEL2ID

_log = logging.getLogger(__name__)


class LabelledFile(NamedTuple):
    """The valid rows of some sources, and what became of the others."""

    rows: Split
    files: list[FileCounts]
    left_out: list[str]
    """Files of folders whose endings are not read."""
    polarity: list[SourcePolarity]
    """For `finsent.data.pooled_labels.check_pooled_labels`."""

    @property
    def skipped(self) -> dict[str, int]:
        """Rows that are not valid, by reason."""
        return dict(sum((Counter(item.reasons) for item in self.files), Counter[str]()))


def load_labelled_file(config: DataConfig, sources: Sequence[Source]) -> LabelledFile:
    """All valid rows of labelled sources. Texts that differ only in URLs, handles or case share a group.

    Raises:
        InputError: a file, a column or all labels of a source are wrong, or no row is valid.
    """
    resolved = [(source, resolve(source)) for source in sources]
    require_one_class(file for _, files in resolved for file in files)
    found = LabelledFile(_as_split([]), [], [], [])
    rows: list[Row] = []
    for source, files in resolved:
        if source.id not in (None, NO_COLUMN):
            raise InputError(f"{source.uri!r}: nothing is stored, so that `id` (--id {source.id!r}) has no effect. Leave it out.")
        wanted, seen, polarity, times = labelled_columns(source), Counter[str](), PolarityStats(), SourceTimes(files)
        for file in files:
            counts = count_file(file)
            for n, good, bad in read_validated(file, config, datetime.now(UTC), seen, wanted, times):
                rows += good
                counts.add(n, len(good), bad)
                polarity.add((row.label, row.text) for row in good)
            counts.taken = counts.readable
            found.files.append(counts)
            found.left_out.extend(file.left_out)
        check_values(source, seen, check=config.check_labels)
        found.polarity.append(SourcePolarity(tuple(dict.fromkeys(file.name for file in files)), source.labels, polarity))
    flags = Counter(flag for row in rows if row.flags is not None for flag in row.flags.split(FLAG_SEPARATOR))
    if flags:
        _log.info("%s", format_flags(flags))
    if not rows:
        raise InputError(f"{', '.join(repr(source.uri) for source in sources)}: there is no readable labelled row.")
    return found._replace(rows=_as_split(rows))


def _as_split(rows: Sequence[Row]) -> Split:
    return Split(
        ids=[f"{row.source}:{row.number}" for row in rows],
        texts=[row.text for row in rows],
        labels=np.array([LABEL2ID[row.label] for row in rows], np.int64),
        sources=[row.source for row in rows],
        groups=[row.id for row in rows],
        created_at=[row.created_at for row in rows],
    )
