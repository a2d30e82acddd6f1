"""The three classes, in the id order of the reference model card. Nothing else may decide that order.

How a source's own label values become these classes: `finsent.data.validation.label_mapping`.
"""

from types import MappingProxyType
from typing import Final

LABELS: Final = ("Neutral", "Bullish", "Bearish")
"""Class names; the position is the id (0 Neutral, 1 Bullish, 2 Bearish)."""

ID2LABEL: Final = MappingProxyType(dict(enumerate(LABELS)))
LABEL2ID: Final = MappingProxyType({name: index for index, name in enumerate(LABELS)})
