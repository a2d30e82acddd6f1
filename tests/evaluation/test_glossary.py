"""Every word that a first reader would ask for is explained in one sentence, folded away."""

from finsent.evaluation.glossary import WORDS, glossary


def test_each_word_has_one_sentence():
    page = glossary()
    assert page.startswith("<details><summary>What the words mean</summary>")
    for word in (
        "gate", "floor", "MCC", "macro-F1", "calibration error", "temperature", "Brier score", "slice", "head",
        "pooled position", "packed engine", "McNemar test",
    ):  # fmt: skip
        assert f"<td>{word}</td>" in page, word
    assert all(meaning.endswith(".") and ". " not in meaning for meaning in WORDS.values())
