"""The bundled sample: tweets written by this project's own grammar, in files of several formats, with trouble planted.

    python -m finsent.data.sample OUTDIR

writes the files; those beside this module are its output. Nothing in them is real: not the tweets, the handles, nor the firms.
"""

from pathlib import Path

from finsent.config import Source

SAMPLE_DIR = Path(__file__).parent


def sample_sources(day: int = 1) -> tuple[Source, ...]:
    """Labelled sources that arrive on `day` (1 or 2); `archive` numbers its labels in an order of its own."""
    if day == 1:
        return (
            Source(uri=str(SAMPLE_DIR / "desk.csv.gz"), name="desk"),
            Source(uri=str(SAMPLE_DIR / "street.jsonl.gz"), name="street", text="body", label="sentiment"),
            Source(
                uri=str(SAMPLE_DIR / "archive.csv.gz"),
                name="archive",
                text="tweet",
                label="y",
                labels={"0": "Bearish", "1": "Bullish", "2": "Neutral"},
            ),
        )
    if day == 2:
        return (Source(uri=str(SAMPLE_DIR / "arrivals.csv.gz"), name="arrivals"),)
    raise ValueError(f"the sample has days 1 and 2, not {day!r}")


def inbox_files(day: int = 1) -> tuple[Path, ...]:
    """Files of unlabelled tweets that arrive on `day` (1 or 2)."""
    if day not in {1, 2}:
        raise ValueError(f"the sample has days 1 and 2, not {day!r}")
    return (SAMPLE_DIR / ("inbox-day1.csv.gz" if day == 1 else "inbox-day2.jsonl.gz"),)
