from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.config import EngineConfig
from finsent.errors import FinsentError
from finsent.models.abstention import abstains
from finsent.models.adapter import LoadedAdapter, load_adapter
from finsent.models.load import prepare_for_inference
from finsent.models.predict import count_tokens, padded_batches, predict_logits, predict_rows, probabilities, tokenise
from finsent.workspace import Workspace

TEXTS = ["up", "$AAPL to the moon, buying more calls " * 3, "puts printing", "", "fed meets on tuesday", "🚀" * 20]


@pytest.fixture
def loaded(make_adapter: Callable[[int], Path], home: Workspace) -> LoadedAdapter:
    return load_adapter(make_adapter(0), home)


@given(lengths=st.lists(st.integers(1, 128), max_size=60), budget=st.integers(1, 600))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(padded_batches(lengths, budget))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_batch_size_order_and_padding_side_do_not_matter(loaded: LoadedAdapter) -> None:
    together = predict_logits(loaded, TEXTS)
    alone = predict_logits(loaded, TEXTS, token_budget=1)
    backwards = predict_logits(loaded, TEXTS[::-1])[::-1]
    right = predict_logits(loaded, TEXTS, padding_side="right")
    for other in (alone, backwards, right):
        assert np.abs(together - other).max() < 5e-3  # bfloat16 products, other shapes
    assert len({tuple(row) for row in together.round(3).tolist()}) == len(TEXTS)  # and the texts do


def test_no_texts_give_no_logits(loaded: LoadedAdapter) -> None:
    assert predict_logits(loaded, []).shape == (0, 3)
    assert count_tokens(loaded, []).shape == (0,)


def test_texts_are_cut_at_the_manifests_length(loaded: LoadedAdapter) -> None:
    assert count_tokens(loaded, ["word " * 1000])[0] == loaded.manifest.max_length


def test_probabilities_sum_to_one_and_cool_down() -> None:
    logits = np.array([[2.0, 0.0, -1.0], [1000.0, 0.0, 0.0]], dtype=np.float32)
    sharp, soft = probabilities(logits, 1.0), probabilities(logits, 4.0)
    assert np.allclose(sharp.sum(axis=1), 1)
    assert soft[0, 0] < sharp[0, 0]
    assert np.isfinite(soft).all()
    assert probabilities(np.zeros((0, 3), np.float32), 1.0).shape == (0, 3)


@pytest.mark.parametrize("engine", ["stock", "packed"])
def test_logits_that_are_not_finite_are_no_prediction(loaded: LoadedAdapter, engine: str) -> None:
    """A label made of NaN would be class 0 and, since no comparison holds, would not abstain either."""
    import torch

    if engine == "packed":
        loaded = prepare_for_inference(loaded, EngineConfig(inference="packed"), rows=10)
    sick = [parameter for name, parameter in loaded.model.named_parameters() if "score" in name]
    if loaded.packed is not None:
        sick += list(loaded.packed.classifier.parameters())
    with torch.no_grad():
        for parameter in sick:
            parameter.fill_(float("nan"))
    with pytest.raises(FinsentError, match=r"no finite logits for 2 of 2 rows \(row 0, 1 of this batch"):
        predict_logits(loaded, TEXTS[:2])
    assert np.isnan(predict_logits(loaded, TEXTS[:2], finite=False)).all()


def test_a_text_without_finite_logits_has_a_reason_and_costs_the_others_nothing(loaded: LoadedAdapter) -> None:
    import torch

    others = {token for ids in tokenise(loaded.tokenizer, TEXTS[:2], 64) for token in ids}
    own = set(tokenise(loaded.tokenizer, [TEXTS[2]], 64)[0]) - others - {loaded.manifest.pad_token_id}
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[sorted(own)] = float("nan")
    first, failed, last = predict_rows(loaded, [TEXTS[0], TEXTS[2], TEXTS[1]], threshold=0.0, max_characters=999, masked=False)
    assert (failed.label, failed.confidence, failed.abstained, failed.probabilities) == (None, None, True, {})
    assert str(failed.reason).startswith("not finite: the model gives no finite logits for this text")
    assert None not in (first.label, last.label)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_probability_is_made_of_what_is_no_number(bad: float) -> None:
    with pytest.raises(FinsentError, match="row 1 of this batch"):
        probabilities(np.array([[1.0, 0.0, 0.0], [bad, 0.0, 0.0]], dtype=np.float32), 1.0)


def test_a_confidence_that_is_no_number_abstains() -> None:
    assert abstains(np.array([0.4, 0.6, np.nan]), 0.5).tolist() == [True, False, True]
    assert abstains(float("nan"), 0.5)
    assert not abstains(0.5, 0.5)


def test_a_bad_row_has_a_reason_and_costs_the_others_nothing(loaded: LoadedAdapter) -> None:
    bad = {"": "empty", " \u3000": "empty", "up \ud83d": "bad encoding", "x" * 41: "too long", 7: "not a string", None: "empty"}
    bad |= {float("nan"): "not a string", "https://t.co/x": "empty"}
    mixed = [TEXTS[0], *bad, TEXTS[2]]
    first, *none, last = predict_rows(loaded, mixed, threshold=0.0, max_characters=40, repaired=True, masked=False)
    alone = predict_rows(loaded, [TEXTS[0], TEXTS[2]], threshold=0.0, max_characters=40, repaired=True, masked=False)
    assert [first.label, last.label] == [row.label for row in alone]
    assert not first.abstained
    for row, reason in zip(none, bad.values(), strict=True):
        assert (row.label, row.confidence, row.abstained, row.probabilities) == (None, None, True, {})
        assert str(row.reason).startswith(reason)


def test_the_model_is_given_what_the_tables_hold(loaded: LoadedAdapter) -> None:
    def ask(text: str, *, changed: bool) -> dict[str, float]:
        return predict_rows(loaded, [text], threshold=0.5, max_characters=100, repaired=changed, masked=changed)[0].probabilities

    assert ask("@somebody says S&amp;P is up", changed=True) == ask("@user says S&P is up", changed=False)


def test_a_padded_pass_that_memory_does_not_hold_says_what_to_lower(
    make_adapter: Callable[[int], Path], home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    loaded = load_adapter(make_adapter(0), home)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loaded.model, "forward", full)
    with pytest.raises(FinsentError, match=r"a padded pass of 1 x \d+ tokens.*lower scoring\.token_budget \(4096 here\)"):
        predict_logits(loaded, ["to the moon"])
