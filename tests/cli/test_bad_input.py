"""Wrong input of every kind: one message that says what, where and what to do; the right exit code; nothing half-written."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finsent.cli.up import GUARDED_BY_UP
from finsent.data import tables
from finsent.registry.client import Registry
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent, Said
    from tests.conftest import Served

GOOD = "text,label\nshares rise on results,Bullish\nshares fall on results,Bearish\n"


def options(home: Workspace) -> tuple[str, str]:
    return "--home", str(home.root)


def assert_error(said: "Said", code: int, *fragments: str) -> None:
    """One message, no traceback, nothing on stdout."""
    assert said.code == code, said.err
    assert said.out == ""
    assert "Traceback" not in said.err
    messages = [line for line in said.err.splitlines() if line.startswith(("error: ", "refused: "))]
    assert len(messages) == 1, said.err
    for fragment in fragments:
        assert fragment in messages[0]


FILES: list[tuple[str, bytes | None, tuple[str, ...], tuple[str, ...]]] = [
    ("absent.csv", None, (), ("there is no file", "absent.csv")),
    ("empty.csv", b"", (), ("empty.csv' is empty",)),
    ("header.csv", b"text,label\n", (), ("header.csv' has no rows",)),
    ("binary.csv", bytes(range(256)) * 20, (), ("binary.csv' is not a text file but binary",)),
    ("fake.parquet", b"PAR1 not really", (), ("fake.parquet' cannot be read as Parquet",)),
    ("prose.jsonl", b"not json\n", (), ("prose.jsonl' is not JSON lines",)),
    ("what.xyz", b"x", (), ("the ending '.xyz' is not understood",)),
    ("tweets.csv", GOOD.encode(), ("--text", "body"), ("no column 'body'", "Columns: 'text' (", "'label' (")),
    ("tweets.csv", GOOD.encode(), ("--label", "mood"), ("no column 'mood'",)),
    ("numbers.csv", b"text,label\na b c,1\n", (), ("no label in column 'label' is understood", "'1'", "--label-map")),
    ("words.csv", b"text,label\na b c,happy\n", (), ("no label in column 'label' is understood", "'happy'")),
    ("tweets.csv", GOOD.encode(), ("--label-map", "1=Glad"), ("'1=Glad' is not VALUE=CLASS", "Neutral, Bullish, Bearish")),
    ("tweets.csv", GOOD.encode(), ("--label-map", "1=bullish,1=Bearish"), ("the value '1' is given twice",)),
    ("tweets.csv", GOOD.encode(), ("--delimiter", ""), ("--delimiter '' is not one character",)),
    ("tweets.csv", GOOD.encode(), ("--encoding", "utf-16"), ("has no byte order mark", "--encoding utf-16-le")),
    ("tweets.csv", GOOD.encode(), ("--encoding", "idna"), ("'idna' (--encoding) is no encoding of text",)),
    ("tweets.csv", GOOD.encode(), ("--name", "\udcff"), ("(--name) is not UTF-8",)),
    ("tweets.csv", GOOD.encode(), ("--profile", "nanoo"), ("unknown profile 'nanoo'", "nano")),
    ("tweets.csv", GOOD.encode(), ("--set", "recipe.epoch=1"), ("unknown key 'recipe.epoch'", "finsent config schema")),
    (
        "tweets.csv",
        GOOD.encode(),
        ("--config", "gone.yaml"),
        (
            "no configuration file",
            "gone.yaml'. Give",
        ),
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "more", "fragments"), FILES, ids=[f"{file[0]} {' '.join(file[2])}" for file in FILES]
)
def test_files_and_options_of_ingest(
    name: str,
    content: bytes | None,
    more: tuple[str, ...],
    fragments: tuple[str, ...],
    finsent: "Finsent",
    tmp_path: Path,
    home: Workspace,
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    assert_error(finsent("ingest", file, *options(home), *more), 2, *fragments)
    assert tables.version(home, "tweets") is None
    assert tables.version(home, "quarantine") is None
    as_json = finsent("ingest", file, *options(home), *more, "--json")
    assert as_json.code == 2
    assert all(fragment in as_json.json()["error"]["message"] for fragment in fragments)


def test_one_bad_file_among_good_ones_stops_before_anything_is_written(
    finsent: "Finsent", tmp_path: Path, home: Workspace
) -> None:
    (tmp_path / "good.csv").write_text(GOOD, encoding="utf-8")
    (tmp_path / "bad.csv").write_bytes(b"")
    assert_error(finsent("ingest", tmp_path / "good.csv", tmp_path / "bad.csv", *options(home)), 2, "bad.csv' is empty")
    assert tables.version(home, "tweets") is None


def test_a_bad_row_does_not_stop_a_good_file(finsent: "Finsent", tmp_path: Path, home: Workspace) -> None:
    (tmp_path / "mixed.csv").write_text(GOOD + "shares do what,happy\n", encoding="utf-8")
    said = finsent("ingest", tmp_path / "mixed.csv", *options(home), "--json")
    report = said.json()
    assert said.code == 0
    assert (report["read"], report["accepted"], report["duplicates"], report["quarantined"]) == (3, 2, 0, 1)
    assert report["reasons"] == {"unknown label": 1}
    assert report["version"] == tables.version(home, "tweets")


def test_inbox_files_are_checked_the_same_way(finsent: "Finsent", tmp_path: Path, home: Workspace) -> None:
    assert_error(finsent("ingest", "--inbox", *options(home)), 2, "--inbox needs at least one FILE")
    assert_error(finsent("ingest", "--inbox", tmp_path / "absent.csv", *options(home)), 2, "there is no file")
    assert tables.version(home, "inbox") is None


def test_up_refuses_what_it_would_have_to_ignore(finsent: "Finsent", home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_error(
        finsent("up", "--set", "recipe.epochs=1", *options(home)), 2, "--set 'recipe.epochs=1' would not reach the workers"
    )
    assert_error(finsent("up", "--project", home.root, *options(home)), 2, "no prefect.yaml in")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@elsewhere:5000")
    said = finsent("up", *options(home))
    assert_error(said, 2, "MLFLOW_TRACKING_URI is set to", "elsewhere:5000'")
    assert "secret" not in said.err
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for name in GUARDED_BY_UP:
        monkeypatch.setenv(name, "me:secret")
        said = finsent("up", *options(home))
        assert_error(said, 2, f"{name} is set, and `finsent up` guards its servers itself", "Unset it")
        assert "secret" not in said.err
        monkeypatch.delenv(name)
    assert not home.root.exists()


def test_no_traceback_shows_a_password(finsent: "Finsent", home: Workspace) -> None:
    said = finsent("train", "--set", "model.name=postgresql://me:hunter2@db/desk", "--traceback", *options(home))
    assert "Traceback" in said.err
    assert "postgresql://me:***@db/desk" in said.err
    assert "hunter2" not in said.err


def test_a_name_for_several_sources_is_refused(finsent: "Finsent", home: Workspace) -> None:
    assert_error(
        finsent("ingest", "a.csv", "b.csv", "--name", "x", *options(home)), 2, "--name 'x' names one source, and 2 were given"
    )


@pytest.mark.parametrize(
    ("step", "first"),
    [
        ("train", "finsent ingest"),
        ("tune", "finsent ingest"),
        ("evaluate", "finsent train"),
        ("promote", "finsent train"),
        ("rollback --why x", "no champion"),
    ],
)
def test_steps_without_what_they_need_say_so(step: str, first: str, finsent: "Finsent", mlflow_home: Workspace) -> None:
    assert_error(finsent(*step.split(), *options(mlflow_home)), 2, first)


@pytest.mark.parametrize("step", ["score", "monitor", "predict up", "export {tmp}/out"])
def test_no_champion_yet(step: str, finsent: "Finsent", mlflow_home: Workspace, tmp_path: Path) -> None:
    said = finsent(*step.format(tmp=tmp_path).split(), *options(mlflow_home), "--json")
    assert said.code == 2
    assert said.json()["error"]["type"] == "NoChampionError"
    assert "finsent promote" in said.json()["error"]["message"]
    assert not (tmp_path / "out").exists()
    assert not Path(mlflow_home.tables_url).exists()


def test_nothing_waits_for_approval(finsent: "Finsent", mlflow_home: Workspace) -> None:
    assert_error(finsent("approve", "--why", "x", *options(mlflow_home)), 1, "no version of 'finsent' waits for approval")


def test_the_base_model_cannot_be_reached(finsent: "Finsent", served: "Served") -> None:

    before = Registry(served.home, "finsent").latest_version()
    arguments = ("--profile", "minilm", "--set", "model.name=owner/absent", "--home", served.home.root)
    assert_error(finsent("train", *arguments), 2, "base model 'owner/absent' cannot be reached", "model.name")
    assert Registry(served.home, "finsent").latest_version() == before


@pytest.mark.parametrize("step", ["train", "evaluate", "promote", "score", "status", "predict up"])
def test_the_tracking_server_is_down(step: str, finsent: "Finsent", served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    versions = {name: tables.version(served.home, name) for name in tables.SCHEMAS}
    said = finsent(*step.split(), *served.options)
    if step == "status":  # shows the rest, and says what it could not see
        assert said.code == 1
        assert said.out.startswith("NOT OK")
        assert "http://127.0.0.1:9' does not answer" in said.out
    else:
        assert_error(said, 2, "the MLflow server at 'http://127.0.0.1:9' does not answer", "MLFLOW_TRACKING_URI")
    assert versions == {name: tables.version(served.home, name) for name in tables.SCHEMAS}


@pytest.fixture
def corrupted(served: "Served") -> Iterator[Path]:
    """The champion's adapter, with one byte changed wherever it lies, and put back afterwards."""
    shutil.rmtree(served.home.versions, ignore_errors=True)
    changed = []
    for file in served.home.artifacts.rglob("adapter_model.safetensors"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        changed.append((file, content))
    assert changed, "the registry keeps the adapter as a file"
    yield changed[0][0]
    for file, content in changed:
        file.write_bytes(content)
    shutil.rmtree(served.home.versions, ignore_errors=True)


@pytest.mark.parametrize("step", ["predict up", "evaluate", "export {tmp}/out"])
def test_a_corrupt_adapter_is_refused(step: str, finsent: "Finsent", served: "Served", corrupted: Path, tmp_path: Path) -> None:
    said = finsent(*step.format(tmp=tmp_path).split(), *served.options)
    assert_error(said, 1, corrupted.name, "SHA-256 differs")
    assert not (tmp_path / "out").exists()


def test_a_corrupt_adapter_scores_nothing(finsent: "Finsent", served: "Served", corrupted: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("text\nanything at all\n", encoding="utf-8")
    before = tables.version(served.home, "predictions")
    assert_error(finsent("score", tmp_path / "new.csv", *served.options), 1, corrupted.name)
    assert tables.version(served.home, "predictions") == before


@pytest.mark.parametrize(
    ("files", "more", "code", "fragments"),
    [
        ({}, (), 2, ("lacks 'adapter_model.safetensors'",)),
        ({"adapter_model.safetensors": b"x", "adapter_config.json": b"{"}, (), 1, ("adapter_config.json", "cannot be read")),
        (
            {"adapter_model.safetensors": b"x", "adapter_config.json": b'{"task_type": "CAUSAL_LM"}'},
            (),
            2,
            ("'CAUSAL_LM'", "SEQ_CLS"),
        ),
        (
            {"adapter_model.safetensors": b"x", "adapter_config.json": b'{"peft_type": "LORA", "task_type": "SEQ_CLS"}'},
            (),
            2,
            ("--labels Neutral,Bullish",),
        ),
        (
            {"adapter_model.safetensors": b"x", "adapter_config.json": b'{"peft_type": "LORA", "task_type": "SEQ_CLS"}'},
            ("--labels", "Bearish,Neutral,Bullish"),
            1,
            ("stand in the order",),
        ),
        ({"manifest.json": b"{}"}, (), 1, ("is damaged",)),
    ],
)
def test_folders_that_are_no_adapter_are_not_imported(
    files: dict[str, bytes],
    more: tuple[str, ...],
    code: int,
    fragments: tuple[str, ...],
    finsent: "Finsent",
    tmp_path: Path,
    home: Workspace,
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert_error(finsent("import", folder, *more, *options(home)), code, *fragments)
    assert not list(home.runs.glob("*"))
    assert not (home.root / "mlflow.db").exists()


def test_a_folder_that_is_not_there_is_not_imported(finsent: "Finsent", tmp_path: Path, home: Workspace) -> None:
    assert_error(finsent("import", tmp_path / "absent", *options(home)), 2, "no folder")


@pytest.mark.parametrize("override", ["data.sources=[{uri: 'pg://u:hunter2@db/x'}]", "recipe.epochs=many"])
def test_the_demo_refuses_wrong_overrides_as_every_command(override: str, finsent: "Finsent", home: Workspace) -> None:
    ran = finsent("demo", "--home", str(home.root), "--set", override)
    assert ran.code == 2
    assert not any(word in ran.err for word in ("hunter2", "validation error", "unexpected"))
