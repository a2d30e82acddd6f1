"""Texts to logits and probabilities: the stock engine (padded, the reference) and the packed one, by token budget."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from finsent.data.validation.text_cleaning import model_text
from finsent.engine.packed_forward import batch_to_device, packed_logits
from finsent.engine.packing import pack_batches, pack_rows, pad_rows, strip_padding
from finsent.errors import FinsentError
from finsent.logging_setup import track
from finsent.models.abstention import abstains
from finsent.models.adapter import LoadedAdapter

_log = logging.getLogger(__name__)


def tokenise(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids of each text, cut at `max_length`, special tokens included, no padding."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, add_special_tokens=True, return_attention_mask=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def count_tokens(loaded: LoadedAdapter, texts: Sequence[str]) -> NDArray[np.int64]:
    """Tokens of each text as the model sees it."""
    return np.array([len(ids) for ids in tokenise(loaded.tokenizer, texts, loaded.manifest.max_length)], dtype=np.int64)


@dataclass(frozen=True)
class RowPrediction:
    """The answer to one text; a text that is no row of finsent's has a reason in place of label and probabilities."""

    label: str | None
    confidence: float | None
    """Calibrated probability of the label."""
    abstained: bool
    """Whether the confidence is below the threshold, or there is none."""
    probabilities: dict[str, float]
    """Calibrated probability of each class; empty without a label."""
    reason: str | None = None
    """Why the text was not given to the model."""


def predict_rows(
    loaded: LoadedAdapter,
    values: Sequence[object],
    *,
    threshold: float,
    max_characters: int,
    masked: bool,
    repaired: bool = False,
) -> list[RowPrediction]:
    """Answers to `values`, one to each, in their order: those that `model_text` rejects do not cost the others theirs.

    `repaired` has a default for the scripts of versions registered before texts were repaired in serving.

    A text whose logits are not finite has no label either, and the reason.
    """
    checked = [model_text(value, max_characters, repaired=repaired, masked=masked) for value in values]
    texts = [text for text in checked if isinstance(text, str)]
    logits = predict_logits(loaded, texts, finite=False)
    sound = finite_rows(logits)
    finite, rows = iter(sound.tolist()), iter(probabilities(logits[sound], loaded.manifest.temperature).tolist())
    answers = []
    for text in checked:
        if isinstance(text, str) and not next(finite):
            answers.append(RowPrediction(None, None, abstained=True, probabilities={}, reason=f"not finite: {NOT_FINITE}"))
        elif isinstance(text, str):
            by_label = dict(zip(loaded.manifest.labels, next(rows), strict=True))
            label = max(by_label, key=lambda name: by_label[name])
            answers.append(RowPrediction(label, by_label[label], bool(abstains(by_label[label], threshold)), by_label))
        else:
            answers.append(RowPrediction(None, None, abstained=True, probabilities={}, reason=f"{text.reason}: {text.detail}"))
    return answers


def padded_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Row indices in batches of similar length, longest first, each of at most `token_budget` padded tokens (or one row)."""
    batch: list[int] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = longest or lengths[row]
        if batch and longest * (len(batch) + 1) > token_budget:
            yield batch
            batch, longest = [], lengths[row]
        batch.append(row)
    if batch:
        yield batch


def predict_logits(
    loaded: LoadedAdapter,
    texts: Sequence[str],
    *,
    token_budget: int = 4096,
    progress: bool = False,
    padding_side: str | None = None,
    extra_padding: int = 0,
    finite: bool = True,
) -> NDArray[np.float32]:
    """Logits [texts, 3], float32, in the order of `texts`. Side and width of the padding can be forced, for tests of both.

    Raises:
        FinsentError: logits of some text are not finite; with `finite=False` the caller judges that.
    """
    rows = tokenise(loaded.tokenizer, texts, loaded.manifest.max_length)
    return predict_tokens(
        loaded,
        rows,
        token_budget=token_budget,
        progress=progress,
        padding_side=padding_side,
        extra_padding=extra_padding,
        finite=finite,
    )


def predict_tokens(
    loaded: LoadedAdapter,
    rows: Sequence[Sequence[int]],
    *,
    token_budget: int = 4096,
    progress: bool = False,
    padding_side: str | None = None,
    extra_padding: int = 0,
    finite: bool = True,
) -> NDArray[np.float32]:
    """Logits [rows, 3], float32, of texts that are token ids already (see `tokenise`), in the order of `rows`.

    Raises:
        FinsentError: as `predict_logits`.
    """
    if loaded.packed is not None and padding_side is None and not extra_padding:
        logits = _predict_packed(loaded, rows, loaded.batch_tokens or token_budget, progress=progress)
    else:
        logits = _predict_padded(loaded, rows, token_budget, padding_side, extra_padding, progress=progress)
    return require_finite(logits) if finite else logits


NOT_FINITE: Final = "the model gives no finite logits for this text: its weights are damaged, or its number type overflows"


def finite_rows(logits: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether all logits of each row are finite; [rows]."""
    return np.asarray(np.isfinite(logits).all(axis=1))


def require_finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logits [rows, 3]; no comparison with a NaN holds, so a label made of one would be class 0 and never abstain.

    Raises:
        FinsentError: naming the rows that hold a value that is not finite.
    """
    bad = np.flatnonzero(~finite_rows(logits))
    if len(bad):
        named = ", ".join(map(str, bad[:10].tolist())) + (" ..." if len(bad) > 10 else "")
        raise FinsentError(
            f"the model gives no finite logits for {len(bad)} of {len(logits)} rows (row {named} of this batch, from 0): its "
            "weights are damaged, or its number type overflows. Set engine.inference=stock, or go back with `finsent rollback`."
        )
    return logits


def _predict_padded(
    loaded: LoadedAdapter,
    rows: Sequence[Sequence[int]],
    token_budget: int,
    padding_side: str | None,
    extra_padding: int,
    *,
    progress: bool,
) -> NDArray[np.float32]:
    """Logits [rows, 3] by the stock engine, in padded batches.

    Raises:
        FinsentError: memory does not hold one.
    """
    logits = np.zeros((len(rows), len(loaded.manifest.labels)), dtype=np.float32)
    batches = list(padded_batches([len(row) for row in rows], token_budget))
    with torch.inference_mode():
        for batch in track(batches, description="scoring", unit="batch") if progress else batches:
            ids, mask = pad_rows(
                [rows[i] for i in batch],
                loaded.manifest.pad_token_id,
                padding_side or loaded.manifest.padding_side,
                extra_padding,
            )
            try:
                out = loaded.model(input_ids=ids.to(loaded.device), attention_mask=mask.to(loaded.device)).logits
                logits[batch] = out.float().cpu().numpy()
            except torch.OutOfMemoryError as error:
                raise FinsentError(
                    f"GPU memory does not hold a padded pass of {ids.shape[0]} x {ids.shape[1]} tokens. Free memory on the "
                    f"device, or lower scoring.token_budget ({token_budget} here)."
                ) from error
    return logits


_FETCH_EVERY = 32
"""Batches between copies of results from a GPU; each copy waits for all work before it."""


def _predict_packed(
    loaded: LoadedAdapter, rows: Sequence[Sequence[int]], token_budget: int, *, progress: bool
) -> NDArray[np.float32]:
    """Logits [rows, 3] by the packed engine; where memory runs out, the remaining rows go on in smaller batches.

    Raises:
        FinsentError: memory does not hold the longest row alone.
    """
    logits = np.zeros((len(rows), len(loaded.manifest.labels)), dtype=np.float32)
    rows = strip_padding(rows, loaded.manifest.pad_token_id)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    left = np.ones(len(rows), dtype=bool)
    budget = min(token_budget, int(lengths.sum()))
    while left.any():
        there = np.flatnonzero(left)
        batches = [there[part] for part in pack_batches(lengths[there], budget)]
        shown = track(batches, description="scoring", unit="batch") if progress else batches
        try:
            with torch.inference_mode():
                for part, found in _stream_batches(loaded, rows, shown):
                    logits[part], left[part] = found, False
        except torch.OutOfMemoryError as error:
            if budget <= lengths[left].max():
                raise FinsentError(
                    f"GPU memory does not hold one text of {int(lengths[left].max())} tokens. "
                    "Free memory on the device, raise engine.memory_gib, or set engine.inference=stock."
                ) from error
            budget //= 2
            torch.cuda.empty_cache()
            _log.warning("GPU memory ran out: scoring goes on in passes of at most %d tokens", budget)
    return logits


def _stream_batches(
    loaded: LoadedAdapter, rows: Sequence[Sequence[int]], batches: Iterable[NDArray[np.int64]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Row indices and their logits, some batches at a time; the host packs the next rows while the device computes."""
    assert loaded.packed is not None, "checked by the caller"  # noqa: S101 - for the type checker
    on_gpu = loaded.device.startswith("cuda")
    # one bound for all batches on a GPU: compiled layers specialise on it
    max_seqlen = loaded.manifest.max_length if on_gpu else None
    remaining = iter(batches)
    while group := list(itertools.islice(remaining, _FETCH_EVERY if on_gpu else 1)):
        packed = (pack_rows([rows[row] for row in batch]) for batch in group)
        found = [packed_logits(loaded.packed, batch_to_device(batch, loaded.device, max_seqlen=max_seqlen)) for batch in packed]
        yield np.concatenate(group), torch.cat(found).cpu().numpy()


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Softmax of logits / temperature, rows sum to one (temperature scaling, arXiv:1706.04599).

    Raises:
        FinsentError: a logit is not finite.
    """
    scaled = require_finite(logits).astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True, initial=-np.inf)
    exponent = np.exp(scaled)
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))
