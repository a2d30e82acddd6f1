"""A labelled file as rows to score a model on: read by the same contract, stored nowhere."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np

from finsent.config import Config, Source
from finsent.data.dataset import Split
from finsent.data.reading import check_labels, checked
from finsent.data.sources import labelled, resolve
from finsent.errors import InputError
from finsent.labels import LABEL2ID


def load_labelled(config: Config, source: Source) -> tuple[Split, dict[str, int]]:
    """Readable rows of a labelled source, every one kept, and how many were not readable, by reason.

    Texts that differ only in URLs, handles or case share a group.

    Raises:
        InputError: the file, a column or all labels are wrong, or no row is readable.
    """
    now, seen = datetime.now(UTC), Counter[str]()
    wanted = labelled(source)
    rows, skipped = [], Counter[str]()
    for file in resolve(source):
        for _, good, bad in checked(file, source, config.data, now, seen, wanted):
            rows += good
            skipped.update(row.reason for row in bad)
    check_labels(source, seen)
    if not rows:
        raise InputError(f"{source.uri!r} holds no readable labelled row.")
    split = Split(
        ids=[f"{row.source}:{row.number}" for row in rows],
        texts=[row.text for row in rows],
        labels=np.array([LABEL2ID[row.label] for row in rows], np.int64),
        sources=[row.source for row in rows],
        groups=[row.id for row in rows],
        created_at=[row.created_at for row in rows],
    )
    return split, dict(skipped)
