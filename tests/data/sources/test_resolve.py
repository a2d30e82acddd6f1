"""Addresses resolve to files with names; wrong ones are errors; Hub revisions are pinned."""

import glob
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled

from finsent.config import Source
from finsent.data.sources.formats import fingerprint_file
from finsent.data.sources.resolve import require_one_class, resolve
from finsent.errors import InputError


def test_names_of_sources(tmp_path: Path) -> None:
    for name in ("a.b.csv.gz", "c.jsonl", "deep/d.csv", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in resolve(Source(uri=str(tmp_path)))] == ["a.b", "c", "d"]
    assert [file.name for file in resolve(Source(uri=str(tmp_path / "**/*.csv*")))] == ["a.b", "d"]
    named = resolve(Source(uri=str(tmp_path), name="all"))
    assert {file.name for file in named} == {"all"}
    assert [file.label for file in named] == ["all:a.b.csv.gz", "all:c.jsonl", "all:d.csv"]
    assert resolve(Source(uri=str(tmp_path / "notes.txt"), format="csv"))[0].format == "csv"


def test_addresses_that_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "tweets.csv").write_text("text,label\n")
    (tmp_path / "folder").mkdir()
    for uri, message in {
        "tweet.csv": r"there is no file .* Did you mean 'tweets.csv'\?",
        "absent/tweets.csv": "there is no file",
        "*.tsv": "no file matches",
        "folder": "holds no file",
    }.items():
        with pytest.raises(InputError, match=message):
            resolve(Source(uri=str(tmp_path / uri)))
    with pytest.raises(InputError, match="kind of address is not understood"):
        resolve(Source(uri="ftp://host/tweets.csv"))


def test_hidden_files_of_a_folder_are_skipped(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    for name in ("a.csv", ".hidden.csv", ".cache/b.csv"):
        (tmp_path / name).write_text("text,label\nup,Bullish\n")
    assert [file.name for file in resolve(Source(uri=str(tmp_path)))] == ["a"]


def test_a_hub_revision_is_pinned_to_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def dataset_info(_: object, name: str, *, revision: str | None = None) -> SimpleNamespace:
        asked.append((name, revision))
        return SimpleNamespace(sha="c0ffee" * 6 + "c0ff")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    (file,) = resolve(Source(uri="hf://owner/tweets", revision="v1"))
    assert asked == [("owner/tweets", "v1")]
    assert file.source is not None
    assert file.source.revision == fingerprint_file(file)["revision"] == "c0ffee" * 6 + "c0ff"
    (local,) = resolve(Source(uri=f"hf://{tmp_path}"))
    assert fingerprint_file(local)["revision"] == "not known"
    assert len(asked) == 1


@pytest.mark.parametrize("problem", [OfflineModeIsEnabled("offline"), HTTPError("no route"), HFValidationError("bad name")])
def test_without_the_hub_the_configured_revision_is_recorded(monkeypatch: pytest.MonkeyPatch, problem: Exception) -> None:
    def dataset_info(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    for revision, recorded in (("v1", "v1"), (None, "not known")):
        (file,) = resolve(Source(uri="hf://owner/tweets", revision=revision))
        assert fingerprint_file(file)["revision"] == recorded


@pytest.mark.parametrize("pattern", ["**/*.csv", "**/x.csv", "sub/**", "s*/**/deep/*.csv", "**/sub/**/x.csv"])
def test_patterns_for_folders_at_any_depth_enter_none_by_a_link(tmp_path: Path, pattern: str) -> None:
    """Two links that lead back double the paths at each of 40 levels."""
    for name in ("x.csv", "sub/x.csv", "sub/deep/x.csv", ".hidden/x.csv", "sub/.x.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text,label\nup,Bullish\n")
    found = glob.glob(str(tmp_path / pattern), recursive=True)  # noqa: PTH207
    without_links = sorted(path for path in found if Path(path).is_file())
    for link in ("a", "b", "sub/c"):
        (tmp_path / link).symlink_to(tmp_path)
    assert [file.uri for file in resolve(Source(uri=str(tmp_path / pattern)))] == without_links != []


def test_a_file_of_two_classes_is_refused_and_left_out_files_are_known(tmp_path: Path) -> None:
    for name in ("a.csv", "deep/b.csv", "deep/c.docx", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text\ngold\n")
    bull = resolve(Source(uri=str(tmp_path), label_value="Bullish"))
    assert [file.left_out for file in bull] == [("deep/c.docx",), ()]
    require_one_class([*bull, *bull])
    with pytest.raises(InputError, match=r"a\.csv' is given as Bearish and as Bullish"):
        require_one_class([*bull, *resolve(Source(uri=str(tmp_path / "*.csv"), label_value="Bearish"))])
