"""The robustness suite: planted models that are right for the wrong reason fail the gate, honest ones pass."""

import csv
import gzip
import re
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest

from finsent.config import GateConfig
from finsent.data.sample.generate import compose
from finsent.data.sample.grammar import TICKERS
from finsent.errors import InputError
from finsent.evaluation.baselines import baseline_predictions
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.robustness.negation import TEMPLATES
from finsent.evaluation.robustness.perturbations import DIRECTION, INVARIANCE
from finsent.evaluation.robustness.suite import CHECKS, SHOWN, run_suite
from finsent.evaluation.statistics import mcnemar
from finsent.labels import LABEL2ID, LABELS
from finsent.registry.gate import against_baselines

SHARED = Path(__file__).parents[4] / "shared" / "data"
GATE = GateConfig()


def _words(text):
    return frozenset(text.split())


BULLISH = _words(
    "bullish up upside higher rally rallies rallying rise rises rising gain gains growing climbing strong good great undervalued "
    "outperform buy buying bought calls moon breakout beat beats raised hold holds bulls long longs grab grabbed add added love "
    "🚀 📈 🐂 🔥"
)
BEARISH = _words(
    "bearish down downside lower plunge plunges plunging fall falls falling loss losses shrinking sliding weak bad terrible "
    "overvalued underperform sell selling sold puts zero breakdown miss misses missed cut lose loses bears short shorts "
    "dump dumped hate 🔻 📉 🐻 💩"
)
DENIES = re.compile(r"\b(?:not|never|no longer|no way|zero chance)\b|n't")
WORD = re.compile(r"(?<![\w$])[a-z']+|[^\w\s]")


def _letters(word: str) -> str:
    return word[0] + "".join(sorted(word[1:]))  # as it is read: the same with two letters swapped


SIDES = {_letters(word): side for words, side in ((BULLISH, 1), (BEARISH, -1)) for word in words}


def reader(texts):
    """Reads words of direction, typos and denials."""
    labels = []
    for text in texts:
        side = sum(SIDES.get(_letters(word), 0) for word in WORD.findall(text.lower()))
        labels.append(0 if side == 0 or DENIES.search(text.lower()) else 1 if side > 0 else 2)
    return np.array(labels)


def keyword_cheat(texts):
    """Bullish where a bullish word is in the text, whatever else is."""
    words = [set(WORD.findall(text.lower())) for text in texts]
    return np.array([1 if found & BULLISH else 2 if found & BEARISH else 0 for found in words])


def cashtag_cheat(texts, up=frozenset(TICKERS[:6]), down=frozenset(TICKERS[6:9])):
    """Knows what became of a few names, and reads keywords for the others."""
    labels = keyword_cheat(texts)
    for row, text in enumerate(texts):
        tags = {tag.upper() for tag in re.findall(r"\$([A-Za-z]+)", text)}
        labels[row] = 1 if tags & up else 2 if tags & down else labels[row]
    return labels


def plain_tweets(rows: int):
    """Tweets that say one thing, and their labels."""
    rng = Random(5)
    says = {1: ["is bullish", "looks strong", "will rally", "is going higher", "rising again", "beats estimates", "up 5% 🚀"]}
    says[2] = ["is bearish", "looks weak", "will fall", "is going lower", "falling again", "misses estimates", "down 5% 📉"]
    says[0] = ["reports on Tuesday", "opens an office", "names a director", "annual meeting in Oslo", "trading halted 👀"]
    texts, labels = [], np.array([rng.choice([0, 1, 2]) for _ in range(rows)])
    for row, label in enumerate(labels.tolist()):
        parts = [rng.choice(["", f"@user{row} ", "Update: "]), f"${rng.choice(TICKERS)} {rng.choice(says[label])} {row}"]
        texts.append("".join([*parts, rng.choice(["", " https://t.co/x", " according to several analysts 🤔"])]))
    return texts, labels


def sample_tweets(rows: int):
    rng = Random(7)
    texts, labels = zip(*(compose(rng, TICKERS) for _ in range(rows)), strict=True)
    return list(texts), np.array([LABEL2ID[label] for label in labels])


def checks(model, texts, labels, rows=150):
    return run_suite(model, texts, labels, model(texts), [str(row) for row in range(len(texts))], rows=rows)


def failed(found):
    """Names of the checks that exceed the gate's limits."""
    return {name for name, check in found.items() if check["failure_rate"] > GATE.robustness_limit(name)}


def test_an_honest_model_passes_every_check():
    found = checks(reader, *plain_tweets(800))
    assert set(found) == {*INVARIANCE, *DIRECTION, "negation_templates"}
    assert failed(found) == set()
    assert all(check["n"] >= 20 for check in found.values())
    assert {check["failure_rate"] for check in found.values() if check["kind"] == "invariance"} == {0.0}
    assert found["negation"]["failure_rate"] == 0


@pytest.mark.parametrize("tweets", [plain_tweets, sample_tweets])
def test_a_model_that_counts_keywords_is_caught_by_denials(tweets):
    found = checks(keyword_cheat, *tweets(1500))
    assert failed(found) >= {"negation", "negation_templates"}
    assert found["negation"]["interval"]["low"] > 0.8
    example = found["negation_templates"]["examples"][0]
    assert example["before"] == example["after"] != "Neutral"


@pytest.mark.parametrize("tweets", [plain_tweets, sample_tweets])
def test_a_model_that_knows_a_few_names_is_caught_by_other_names(tweets):
    found = checks(cashtag_cheat, *tweets(1500))
    assert "cashtag_swap" in failed(found)
    assert found["cashtag_swap"]["interval"]["low"] > 0.15


def source_cheat(texts, labels, sources):
    """A classifier of sources, and the majority label of each: never looks at the sentiment."""
    names, ids = np.unique(np.array(sources), return_inverse=True)
    majority = np.array([np.bincount(labels[ids == name], minlength=3).argmax() for name in range(len(names))])
    return lambda others: majority[_source_ids(tuple(texts), ids, others)]


def _source_ids(texts, ids, others):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3), min_df=2), RidgeClassifier())
    return model.fit(texts, ids).predict(list(others)).astype(np.int64)


def rules_on_baselines(own, train, test, groups):
    """What the gate says of predictions beside the baselines on the same rows."""
    (texts, labels, sources), (test_texts, truth, test_sources) = train, test
    baselines = baseline_predictions(texts, labels, sources, test_texts, test_sources)
    evidence = {
        "model_name": "m",
        "model_version": "1",
        "metrics": {
            "n": len(truth),
            "accuracy": float((own == truth).mean()),
            "macro_f1": 0.0,
            "mcc": 0.0,
            "per_class": {},
            "confusion": [],
        },
        "baselines": {
            name: {
                "accuracy": float((baseline == truth).mean()),
                "macro_f1": 0.0,
                "mcnemar": mcnemar(truth, own, baseline, groups),
            }
            for name, baseline in baselines.items()
        },
    }
    return {result.name: result.status for result in against_baselines(Evidence.model_validate(evidence), GATE)}


def styled(rows: int):
    """Tweets of three sources, each with a style and a favourite label of its own."""
    texts, labels = sample_tweets(rows)
    rng = Random(11)
    style = {
        "wire": lambda text: f"{text.title()} https://t.co/{rng.randrange(10**6)}",
        "forum": lambda text: f"lol {text.lower()}!!!",
        "desk": lambda text: f"{text.rstrip('.')} - NOTE",
    }
    names = list(style)
    sources = [names[label] if rng.random() < 0.6 else rng.choice(names) for label in labels.tolist()]
    return [style[source](text) for source, text in zip(sources, texts, strict=True)], labels, sources


def real(rows: int):
    """Real tweets of the core sources, without repeats."""
    found: dict[str, tuple[str, int, str]] = {}
    for name in ("zeroshot_sent_train", "pyfin_moritz", "yash612", "mattgilgo"):
        with gzip.open(SHARED / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["text"], (row["text"], LABEL2ID[row["label"].capitalize()], name))
    chosen = Random(2).sample(list(found.values()), rows)
    texts, labels, sources = zip(*chosen, strict=True)
    return list(texts), np.array(labels), list(sources)


@pytest.mark.parametrize(
    "tweets",
    [
        styled,
        pytest.param(
            real,
            marks=pytest.mark.skipif(not SHARED.is_dir(), reason="real tweets are not beside this checkout (../shared/data)"),
        ),
    ],
)
def test_a_model_that_guesses_the_source_does_not_beat_the_baselines(tweets):
    texts, labels, sources = tweets(3000)
    train, test = (texts[:2000], labels[:2000], sources[:2000]), (texts[2000:], labels[2000:], sources[2000:])
    guess = source_cheat(*train)(test[0])
    statuses = rules_on_baselines(guess, train, test, [str(row) for row in range(1000)])
    assert (guess == test[1]).mean() > 1.15 * (test[1] == np.bincount(test[1]).argmax()).mean()  # it looks like a model
    assert statuses["beats_majority_significantly"] == "pass"
    assert statuses["beats_source_majority_significantly"] == "fail"
    assert statuses["beats_tfidf_significantly"] == "fail"
    truth = rules_on_baselines(test[1], train, test, [str(row) for row in range(1000)])
    assert set(truth.values()) == {"pass"}  # a perfect model beats them all on these rows


def test_all_changed_texts_are_asked_for_in_one_call():
    texts, labels = plain_tweets(400)
    calls = []

    def predict(asked):
        calls.append(list(asked))
        return reader(asked)

    found = run_suite(predict, texts, labels, reader(texts), [str(row) for row in range(400)], rows=50)
    assert len(calls) == 1
    drawn = sum(check["n"] for name, check in found.items() if name != "negation_templates")
    assert len(calls[0]) == drawn + 2 * len(TEMPLATES)
    assert max(check["n"] for check in found.values()) == 50


def test_the_draw_follows_the_seed():
    texts, labels = plain_tweets(400)
    groups = [str(row) for row in range(400)]
    suite = partial(run_suite, keyword_cheat, texts, labels, keyword_cheat(texts), groups, rows=20)
    assert suite(seed=1) == suite(seed=1)
    assert suite(seed=1)["negation"]["examples"] != suite(seed=2)["negation"]["examples"]


def test_near_duplicates_are_asked_once():
    texts, labels = plain_tweets(60)
    found = run_suite(reader, texts, labels, reader(texts), ["one", "two"] * 30, rows=50)
    assert {check["n"] for name, check in found.items() if name != "negation_templates"} == {2}


def test_direction_counts_rows_that_were_right_and_took_a_side():
    texts = ["$AAPL is bullish", "$AAPL is bearish", "$AAPL is rising", "$AAPL rises"]
    labels, predictions = np.array([1, 2, 0, 1]), np.array([1, 1, 0, 1])
    stays = run_suite(lambda asked: np.full(len(asked), 1), texts, labels, predictions, list("abcd"), rows=9)
    assert (stays["negation"]["n"], stays["negation"]["failure_rate"]) == (2, 1.0)
    assert {example["original"] for example in stays["negation"]["examples"]} == {texts[0], texts[3]}
    assert stays["negation_templates"]["n"] == 15  # those that it takes for Bullish rightly
    assert (stays["case"]["n"], stays["case"]["failure_rate"]) == (4, 0.25)
    moves = run_suite(lambda asked: np.full(len(asked), 2), texts, labels, predictions, list("abcd"), rows=9)
    assert moves["negation"]["failure_rate"] == 0


def test_a_check_without_texts_is_there_and_says_nothing_and_the_others_are_whole():
    found = run_suite(reader, ["reports on Tuesday"] * 2, np.array([0, 0]), np.array([0, 0]), ["a", "b"], rows=5)
    assert set(found) == set(CHECKS)
    asked = {name for name, check in found.items() if check["n"]}
    assert asked == {"link_change", "case", "typos", "whitespace_and_punctuation", "negation_templates"}
    assert (found["negation"]["interval"]["low"], found["negation"]["interval"]["high"]) == (0.0, 1.0)
    kept = Evidence.model_validate({"model_name": "m", "model_version": "1", "robustness": found})
    assert kept.robustness["case"] == found["case"]
    assert found["case"]["interval"]["low"] == 0
    assert 0 < found["case"]["interval"]["high"] < 1
    silent = run_suite(lambda asked: np.zeros(len(asked), dtype=int), ["12 %"], np.array([0]), np.array([0]), ["a"], rows=5)
    assert silent["negation_templates"]["n"] == 0  # not one of them was right before
    assert not any(np.isnan(check["failure_rate"]) for check in silent.values())


def test_examples_are_failures_with_names_of_labels():
    found = checks(keyword_cheat, *plain_tweets(400))["negation"]
    assert len(found["examples"]) == SHOWN
    assert all(example["before"] in LABELS and example["original"] != example["changed"] for example in found["examples"])
    assert "not" in found["examples"][0]["changed"]


@pytest.mark.parametrize("answers", [np.zeros(3, dtype=int), np.full(500, 3), np.full(500, 0.5), np.full((500, 3), 1)])
def test_predictions_that_are_no_label_ids_are_refused(answers):
    texts = ["reports on Tuesday"]
    with pytest.raises(InputError, match="one label id from 0 to 2"):
        run_suite(lambda asked: answers[: len(asked)], texts, np.array([0]), np.array([0]), ["a"], rows=5)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(InputError, match="1 groups for 2 texts"):
        run_suite(reader, ["a", "b"], np.array([0, 0]), np.array([0, 0]), ["g"], rows=5)
