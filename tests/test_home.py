"""Where state lives: resolved from the environment, without touching the disk."""

import re
from pathlib import Path

import pytest

from finsent.errors import ConfigError, InputError
from finsent.workspace import resolve_workspace


def test_default_home_is_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = resolve_workspace({})
    assert home.root == tmp_path / ".finsent"
    assert home.tables_url == str(tmp_path / ".finsent" / "tables")
    assert home.tracking_uri == f"sqlite:///{tmp_path / '.finsent' / 'mlflow.db'}"


def test_environment_wins(tmp_path: Path) -> None:
    home = resolve_workspace(
        {"FINSENT_HOME": str(tmp_path), "FINSENT_TABLES": "s3://bucket/tables", "MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    )
    assert (home.root, home.tables_url, home.tracking_uri) == (tmp_path, "s3://bucket/tables", "http://mlflow:5000")


def test_empty_variables_count_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_workspace({"FINSENT_HOME": "", "FINSENT_TABLES": "", "MLFLOW_TRACKING_URI": ""}) == resolve_workspace({})


def test_relative_and_user_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert resolve_workspace({"FINSENT_HOME": "state"}).root == tmp_path / "state"
    assert resolve_workspace({"FINSENT_HOME": "~/state"}).root == tmp_path / "me" / "state"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("~/tables", "me/tables"),
        ("tables", "here/tables"),
        ("./a/../tables", "here/tables"),
        ("file:tables", "here/tables"),
        ("file:{}/tables", "tables"),
        ("file://{}/tables", "tables"),
        ("file://localhost{}/a%20b", "a b"),
        ("FILE://{}/tables", "tables"),
    ],
)
def test_places_of_tables_are_paths_in_full(given: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    home = resolve_workspace({"FINSENT_TABLES": given.format(tmp_path)})
    assert home.tables_url == str(tmp_path / meant)
    assert list((tmp_path / "here").iterdir()) == []


def test_an_sqlite_store_is_a_path_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/me")
    meant = {
        "sqlite:///m.db": f"sqlite:///{tmp_path}/m.db",
        "sqlite:///~/m.db?timeout=9": "sqlite:////me/m.db?timeout=9",
        "sqlite:////abs/m.db": "sqlite:////abs/m.db",
        "sqlite:///:memory:": "sqlite:///:memory:",
        "http://m:5000": "http://m:5000",
    }
    assert {uri: resolve_workspace({"MLFLOW_TRACKING_URI": uri}).tracking_uri for uri in meant} == meant


@pytest.mark.parametrize(
    "given",
    [{}, {"FINSENT_HOME": "state"}, {"FINSENT_HOME": "/h", "FINSENT_TABLES": "t"}, {"MLFLOW_TRACKING_URI": "sqlite:///m.db"}],
)
def test_a_relative_place_is_refused_where_nobody_knows_the_folder(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"is relative, and a Prefect worker runs in a temporary folder"):
        resolve_workspace({"FINSENT_HOME": "/h", **given} if "MLFLOW_TRACKING_URI" in given else given, folder=None)


def test_the_home_of_an_unknown_user_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'~nobody-here' has no known home folder. Set HOME"):
        resolve_workspace({"FINSENT_TABLES": "~nobody-here/tables"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("file:///tmp/a%00b", "NUL"),
        ("/tmp/" + "a" * 300, "longer than the path"),
        ("/tmp" + "/aa" * 2000, "longer than the path"),
    ],
)
def test_a_path_that_no_file_can_have_is_refused(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        resolve_workspace({"FINSENT_HOME": given})
    assert len(str(raised.value)) < 300


def test_every_place_is_inside_the_home_and_nothing_is_made(tmp_path: Path) -> None:
    home = resolve_workspace({"FINSENT_HOME": str(tmp_path / "new")})
    places = [home.bases, home.runs, home.versions, home.reports, home.audit_log, home.artifacts, home.lock("score")]
    assert all(place.is_relative_to(home.root) for place in places)
    assert len(set(places)) == len(places)
    assert not home.root.exists()


@pytest.mark.parametrize("sign", ["#", "?", "%2F", "%23", "[", "]", "|", "^", "\\", "\n", "\x7f", "\udcff"])
def test_a_place_that_urls_would_change_is_refused_by_its_character(tmp_path: Path, sign: str) -> None:
    bad = tmp_path / f"a{sign}b"
    (tmp_path / "link").symlink_to(bad)
    for environ in (
        {"FINSENT_HOME": str(bad)},
        {"FINSENT_HOME": str(tmp_path / "link" / "home")},
        {"FINSENT_HOME": str(tmp_path), "FINSENT_TABLES": str(bad)},
        {"FINSENT_HOME": str(tmp_path), "FINSENT_TABLES": str(tmp_path / "link")},
        {"FINSENT_HOME": str(tmp_path), "FINSENT_TABLES": f"s3://bucket/a{sign}b"},
    ):
        with pytest.raises(InputError, match=re.escape(f"and {sign!r} in it means something else")):
            resolve_workspace(environ)


@pytest.mark.parametrize("name", ["a b", "ü", "it's", '"q"', "50%", "%zz", "a:b", "a;b", "a&b=c+d@e", "*", "{x}", "<x>", "😀"])
def test_tables_work_below_any_other_name(tmp_path: Path, name: str) -> None:
    import pyarrow as pa

    from finsent.data import tables

    home = resolve_workspace({"FINSENT_HOME": str(tmp_path / name)})
    for row in "ab":
        tables.append(home, "signatures", pa.Table.from_pylist([{"id": row}], schema=tables.SCHEMAS["signatures"]))
    assert len(tables.commit_history(home, "signatures")) == 3
    assert tables.read(home, "signatures", version=1, columns=["id"]).num_rows == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_URI", "PREFECT_API_URL"])
@pytest.mark.parametrize("address", ["http://u:secret@[::1", "http://u:secret@x:99999", "http://u:secret@x:y"])
def test_an_address_that_is_none_is_named(name: str, address: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} = 'http://.* is no address \(.*Correct it") as caught:
        resolve_workspace({name: address})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["gs://", "s3:///"])
def test_tables_at_an_address_that_names_nothing_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"FINSENT_TABLES is '{url}', which names no bucket"):
        resolve_workspace({"FINSENT_HOME": str(tmp_path), "FINSENT_TABLES": url})
