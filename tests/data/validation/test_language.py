"""Languages: clearly foreign tweets are rejected, short English ones never."""

import csv
import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from finsent.data.validation.language import MIN_PROBABILITY, check_language, detect_language
from finsent.errors import ConfigError

SHARED = Path(__file__).parents[3] / "shared" / "data"
FOREIGN = {
    "ja": "本日のトレードは $SOL で利確しました、明日も上昇に期待 🚀 https://t.co/x",
    "es": "@juan Las acciones de Apple subieron mucho después de los resultados del trimestre $AAPL",
    "tr": "$KAVA 8900 sats aldık, 9720 oldu, 1 günde %10 kâr 🔥🚀",
    "fr": "RT @x: $SOL démarre son pull back ! Buy the dip et préparez-vous au décollage !",
    "ar": "قائمة المتابعة اليوم ليست توصية $FTFT",
    "ko": "$NTZ 이거슨 누가봐도 작전주",
}
ENGLISH = (
    "buy the dip",
    "$SPY puts printing lol",
    "long $AAPL calls",
    "Deutsche Bank cuts $SBUX",
    "max pain on puts",
    "making big moves!",
    "$TSLA to the moon 🚀🚀🚀 @elonmusk",
    "BTFD!!!",
    "Grupo Aval Acciones y Valores S.A. reports Q3 results",
    "yuuuuuge bear trap. Bye bye bears",
)


@pytest.mark.parametrize(("language", "text"), FOREIGN.items())
def test_foreign_tweets_are_told_and_rejected(language: str, text: str) -> None:
    assert detect_language(text) == language
    rejection = check_language(text, ("en",))
    assert rejection is not None
    assert rejection.reason == "other language"
    assert repr(language) in rejection.detail
    assert float(rejection.detail.split("probability ")[1][:4]) >= MIN_PROBABILITY
    assert check_language(text, ("en", language)) is None
    assert check_language(text, ()) is None


@pytest.mark.parametrize("text", ENGLISH)
def test_english_is_never_rejected(text: str) -> None:
    assert check_language(text, ("en",)) is None


@pytest.mark.parametrize("text", ["", "🚀🚀🚀", "$AAPL $TSLA 12.5% 2025", "@hans https://t.co/schönes #börse", "lol", "月"])
def test_what_cannot_be_told_is_taken(text: str) -> None:
    assert detect_language(text) is None
    assert check_language(text, ("en",)) is None


def test_a_long_english_text_is_told() -> None:
    assert detect_language("The company reported earnings that were better than expected, and shares rose.") == "en"


@pytest.mark.parametrize("language", ["english", "EN", "xx", "zxx"])
def test_a_language_that_is_not_known_is_an_error(language: str) -> None:
    with pytest.raises(ConfigError, match=f"data.languages: '{language}'"):
        check_language("whatever", ("en", language))


def test_the_model_is_loaded_only_when_asked_for() -> None:
    code = (
        "import sys, finsent.data.validation.language as l; l.check_language('x' * 20, ()); sys.exit('py3langid' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="real tweets are not here")
def test_real_english_tweets_pass() -> None:
    rejected = 0
    for name in ("poojathakoor", "fiqa", "surge_stock", "surge_crypto"):  # English throughout
        with gzip.open(SHARED / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as stream:
            rejected += sum(check_language(row["text"], ("en",)) is not None for row in csv.DictReader(stream))
    assert rejected == 0
