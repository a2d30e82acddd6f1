"""Five hundred malformed files, drawn from a seed: each is rejected with a reason, or every row is accounted for."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from finsent.config import Source
from finsent.data.sources.formats import fingerprint_file, read_rows
from finsent.data.sources.records import RawRow, labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import InputError
from tests.data.malformed import Malformed, malformed


def outcome(file: Malformed, folder: Path) -> str:
    """Read the file, and hold against it what must be true of any."""
    path = folder / file.name
    path.write_bytes(file.data)
    source = Source(uri=str(path))
    (found,) = resolve(source)
    try:
        rows = [row for batch in read_rows(found, labelled_columns(source)) for row in batch]
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert path.name in refusal
        assert refusal.encode()  # can be printed
        assert len(refusal) < 3000
        return "refused"
    assert rows
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    assert all(isinstance(row, RawRow) for row in rows)
    if file.rows is not None:
        assert len(rows) == file.rows, f"{len(rows)} rows read of {file.rows} in {file.name}: {file.data[:300]!r}"
    assert len(str(fingerprint_file(found)["sha256"])) == 64
    return "faults" if any(row.fault for row in rows) else "read"


def test_every_row_of_five_hundred_malformed_files_is_accounted_for(tmp_path: Path) -> None:
    outcomes = Counter(outcome(file, tmp_path) for file in malformed(500))
    assert sum(outcomes.values()) == 500
    assert min(outcomes["refused"], outcomes["faults"], outcomes["read"]) > 50, outcomes


def test_things_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "gone.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "round.csv").symlink_to(tmp_path / "round.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a.csv").write_text("text,label\nup,Bullish\n")
    (tmp_path / "linked" / "b.csv").symlink_to("c.csv")
    for uri, message in {
        "folder.csv": "holds no file",
        "gone.csv": "is a link to .*nowhere.csv.* does not exist",
        "round.csv": "is a link to|cannot be accessed",
        "pipe.csv": "not a file but a device, pipe or socket",
        "linked": "b.csv.* is a link to 'c.csv', which does not exist",
        "linked/*.csv": "b.csv.* is a link to 'c.csv', which does not exist",
        "a.csv/b.csv": "there is no file",
        "x" * 300 + ".csv": "cannot be accessed: File name too long",
        "nul\0.csv": "there is no file",
    }.items():
        with pytest.raises(InputError, match=message):
            resolve(Source(uri=str(tmp_path / uri)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can read as somebody else")
def test_files_without_read_permission() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "closed").mkdir(mode=0o700)
        for path in (folder / "a.csv", folder / "a.parquet", folder / "closed" / "b.csv"):
            path.write_text("text,label\nup,Bullish\n")
            path.chmod(0o600)
        os.seteuid(65534)
        try:
            for uri, message in {
                "a.csv": "may not be read: permission denied",
                "a.parquet": "may not be read: permission denied",
                "closed/b.csv": "cannot be accessed: Permission denied",
                "closed": "cannot be accessed: Permission denied",
                "": "cannot be accessed: Permission denied .*closed",
            }.items():
                source = Source(uri=str(folder / uri))
                with pytest.raises(InputError, match=message):
                    [list(read_rows(file, labelled_columns(source))) for file in resolve(source)]
        finally:
            os.seteuid(0)


@pytest.mark.usefixtures("_environment")
def test_names_that_are_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsdecode(b"caf\xe9.csv")
    assert (
        through_the_command_line(Malformed(name, b"text,label\nna\xefve,Bullish\nup,Bullish\n", 2), tmp_path / "read", capsys)
        == 0
    )
    (tmp_path / name).write_text("txt,label\nup,Bullish\n")
    with pytest.raises(InputError, match="there is no column 'text'"):
        list(read_rows(resolve(Source(uri=str(tmp_path / name)))[0], labelled_columns(Source(uri=str(tmp_path / name)))))


def through_the_command_line(
    file: Malformed, folder: Path, capsys: pytest.CaptureFixture[str], *, with_report: bool = False
) -> int:
    from finsent.cli.main import run

    folder.mkdir()
    (folder / file.name).write_bytes(file.data)
    checks = ("--set", "data.check_labels=false", "--set", "data.check_schema=false")  # whose refusals are another matter
    report = () if with_report else ("--no-report",)
    capsys.readouterr()
    code = run(["ingest", str(folder / file.name), "--home", str(folder / "home"), "--json", *checks, *report])
    said = capsys.readouterr()
    (line,) = said.out.splitlines()
    result = json.loads(line)
    where = f"{file.name} {file.data[:200]!r}: {said.out} {said.err}"
    assert code in (0, 2), where
    assert "unexpected" not in said.err, where
    assert "Traceback" not in said.err, where
    if "error" not in result:  # code 2 too, where next to nothing was taken
        ends = ("accepted", "duplicates", "quarantined", "unlabelled")
        assert result["read"] == sum(result[end] for end in ends) > 0, where
        assert file.rows in (None, result["read"]), where
    else:
        assert file.name in result["error"]["message"], where
        assert not (folder / "home" / "tables").exists(), where
    return code


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command line sets variables for what it starts; they are put back."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("_environment")
def test_a_sample_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = [through_the_command_line(file, tmp_path / str(index), capsys) for index, file in enumerate(malformed(40))]
    assert set(codes) == {0, 2}


@pytest.mark.long
@pytest.mark.usefixtures("_environment")
def test_all_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = [
        through_the_command_line(file, tmp_path / str(index), capsys, with_report=index % 5 == 0)
        for index, file in enumerate(malformed(500))
    ]
    assert set(codes) == {0, 2}
