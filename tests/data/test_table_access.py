"""Tables in other hands and over time: log clean-up, vacuum, columns and features that others add, stores that fail."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, TableFeatures, write_deltalake
from deltalake.schema import Field, PrimitiveType

from finsent.data import tables
from finsent.data.table_access import UnreadableVersionError, location
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import InputError, ServiceError
from finsent.workspace import Workspace, resolve_workspace


def rows(name: str, *ids: str) -> pa.Table:
    """Rows with a text in every column that holds texts."""
    texts = [field.name for field in SCHEMAS[name] if pa.types.is_string(field.type)]
    known = {"label": "Neutral", "split": "train"}
    return pa.Table.from_pylist([dict.fromkeys(texts, i) | known | {"id": i} for i in ids], schema=SCHEMAS[name])


def opened(home: Workspace, name: str) -> DeltaTable:
    return DeltaTable(location(home, name))


def make_older(home: Workspace, name: str, days: int) -> None:
    """Date everything in the table's folder back."""
    then = time.time() - days * 86400
    for path in Path(location(home, name)).rglob("*"):
        os.utime(path, (then, then))


def made_by_an_earlier_release(home: Workspace, name: str, commits: int, **configuration: str) -> None:
    Path(location(home, name)).mkdir(parents=True)
    DeltaTable.create(location(home, name), SCHEMAS[name], configuration=configuration)
    for number in range(1, commits + 1):
        write_deltalake(location(home, name), rows(name, str(number)), mode="append")


def test_versions_outlive_log_clean_up_compaction_and_vacuum_in_a_home_made_before(home: Workspace) -> None:
    # as after months, in short: a checkpoint with clean-up every ten commits, all of them 40 days old
    made_by_an_earlier_release(home, "tweets", 8, **{"delta.checkpointInterval": "10"})
    make_older(home, "tweets", 40)
    for number in range(9, 32):
        tables.append(home, "tweets", rows("tweets", str(number)))
        make_older(home, "tweets", 40)
    opened(home, "tweets").optimize.compact()
    make_older(home, "tweets", 40)
    opened(home, "tweets").vacuum(dry_run=False)
    opened(home, "tweets").cleanup_metadata()
    assert [tables.read(home, "tweets", version=version).num_rows for version in (3, 8, 20)] == [3, 8, 19]
    assert len(tables.commit_history(home, "tweets")) == int(tables.version(home, "tweets") or 0) + 1
    assert tables.read(home, "tweets", filters=[("id", "=", "31")]).num_rows == 1


@pytest.mark.long
def test_a_data_version_is_usable_after_forty_days_and_three_hundred_commits(home: Workspace) -> None:
    made_by_an_earlier_release(home, "tweets", 90)
    for number in range(91, 301):
        tables.append(home, "tweets", rows("tweets", str(number)))
        if number % 10 == 0:
            make_older(home, "tweets", 40)
            if number % 50 == 0:
                opened(home, "tweets").optimize.compact()
                make_older(home, "tweets", 40)
                opened(home, "tweets").vacuum(dry_run=False)
    assert [tables.read(home, "tweets", version=version).num_rows for version in (5, 90, 101)] == [5, 90, 100]


def test_a_version_that_log_clean_up_removed_is_named_with_cause_and_remedy(home: Workspace) -> None:
    made_by_an_earlier_release(home, "tweets", 9, **{"delta.checkpointInterval": "10"})
    make_older(home, "tweets", 40)
    for number in range(10, 20):
        write_deltalake(location(home, "tweets"), rows("tweets", str(number)), mode="append")
    with pytest.raises(
        UnreadableVersionError, match=r"version 3 .* log clean-up .*logRetentionDuration.* oldest left .* 9\. Rest"
    ):
        tables.read(home, "tweets", version=3)
    with pytest.raises(UnreadableVersionError, match="version 3 of table 'tweets' can no longer be opened"):
        next(tables.batches(home, "tweets", ["id"], version=3))
    assert tables.read(home, "tweets", version=12).num_rows == 12


def test_a_version_whose_files_a_vacuum_removed_is_named_with_cause_and_remedy(home: Workspace) -> None:
    for name in "ab":
        tables.append(home, "tweets", rows("tweets", name))
    opened(home, "tweets").optimize.compact()
    opened(home, "tweets").vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    expected = (
        r"version 1 of table 'tweets' can no longer be read: its files were removed by a vacuum \(commit 4\); 'part-.*Restore"
    )
    for reading in (
        lambda: tables.read(home, "tweets", version=1),
        lambda: list(tables.batches(home, "tweets", ["id"], version=1)),
    ):
        with pytest.raises(UnreadableVersionError, match=expected):
            reading()
    assert tables.read(home, "tweets").num_rows == 2
    for file in Path(location(home, "tweets")).glob("*.parquet"):
        file.unlink()
    with pytest.raises(UnreadableVersionError, match=r"version 5 .*its files were removed, but by no vacuum"):
        tables.read(home, "tweets")


@pytest.mark.parametrize("name", [name for name, schema in SCHEMAS.items() if "id" in schema.names])
def test_nullable_columns_of_others_are_left_null_and_their_values_kept(home: Workspace, name: str) -> None:
    tables.append(home, name, rows(name, "a"))
    columns = [Field("checked_by", PrimitiveType("string")), Field("checked", PrimitiveType("timestamp"))]
    opened(home, name).alter.add_columns(columns)
    tables.append(home, name, rows(name, "b"))
    tables.append(home, name, rows(name, "c").to_reader(), transaction=("test", 1))
    after = tables.append_if_unchanged(home, name, rows(name, "d").to_reader(), "test", tables.position(home, name, "test"))
    assert after is not None
    theirs = opened(home, name).to_pyarrow_table().filter(pa.compute.field("id") == "a")
    theirs = theirs.set_column(theirs.column_names.index("checked_by"), "checked_by", pa.array(["desk"]))
    write_deltalake(location(home, name), theirs, mode="overwrite", predicate="id = 'a'")
    changes = pa.table({"id": ["a", "b"], "removed": [False, True]})
    assert tables.update_rows(home, name, changes, "test", after) is not None
    found = {row["id"]: row["checked_by"] for row in opened(home, name).to_pyarrow_table().to_pylist()}
    assert found == {"a": "desk", "c": None, "d": None}
    assert tables.read(home, name).schema == SCHEMAS[name]
    tables.replace(home, name, rows(name, "e"))
    assert opened(home, name).to_pyarrow_table().select(["id", "checked_by"]).to_pylist() == [{"id": "e", "checked_by": None}]


def remake(home: Workspace, schema: pa.Schema, **more: Any) -> None:
    DeltaTable.create(location(home, "predictions"), schema, mode="overwrite", **more)


def add_feature(feature: Any) -> Callable[[Workspace], None]:
    return lambda home: opened(home, "predictions").alter.add_feature(feature, allow_protocol_versions_increase=True)


PREDICTIONS = SCHEMAS["predictions"]
CHANGES: dict[str, tuple[Callable[[Workspace], None], str]] = {
    "required": (
        lambda home: opened(home, "predictions").alter.add_columns([Field("by", PrimitiveType("string"), nullable=False)]),
        "the column 'by', which allows no nulls",
    ),
    "dropped": (lambda home: remake(home, PREDICTIONS.remove(2)), "has no column 'label' any more"),
    "retyped": (lambda home: remake(home, PREDICTIONS.set(2, pa.field("label", pa.int64()))), "has int64 in column 'label'"),
    "unreadable": (add_feature(TableFeatures.DeletionVectors), "does not know: 'deletionVectors'"),
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_what_others_changed_and_cannot_be_left_as_it_is_is_named_before_anything_is_computed(
    home: Workspace, change: str
) -> None:
    tables.append(home, "predictions", rows("predictions", "a"))
    apply, expected = CHANGES[change]
    apply(home)
    before = tables.version(home, "predictions")
    message = f"table 'predictions' .* was changed by other means: it .*{expected}.*restore an earlier version"
    for use in (
        lambda: tables.position(home, "predictions", "score"),
        lambda: tables.append(home, "predictions", rows("predictions", "b")),
    ):
        with pytest.raises(InputError, match=message):
            use()
    assert tables.version(home, "predictions") == before


@pytest.mark.parametrize("change", ["reordered", "partitioned", "features"])
def test_harmless_changes_of_others_are_tolerated(home: Workspace, change: str) -> None:
    tables.append(home, "predictions", rows("predictions", "a"))
    if change == "features":
        add_feature(TableFeatures.ChangeDataFeed)(home)
    else:
        mixed = pa.schema(list(reversed(list(PREDICTIONS)))) if change == "reordered" else PREDICTIONS
        remake(home, mixed, partition_by="label" if change == "partitioned" else None)
    after = tables.position(home, "predictions", "score")
    assert tables.append_if_unchanged(home, "predictions", rows("predictions", "b"), "score", after) is not None
    assert tables.read(home, "predictions", filters=[("id", "=", "b")])["text_hash"].to_pylist() == ["b"]


def test_rules_that_others_put_on_a_table_are_told_as_theirs(home: Workspace) -> None:
    tables.append(home, "inbox", rows("inbox", "a"))
    opened(home, "inbox").alter.add_constraint({"short": "text = 'a'"})
    with pytest.raises(InputError, match=r"table 'inbox' in .*validation check.*If somebody|table 'inbox' .*if somebody changed"):
        tables.append(home, "inbox", rows("inbox", "b"))
    opened(home, "inbox").alter.set_table_properties({"delta.appendOnly": "true"})
    with pytest.raises(InputError, match=r"table 'inbox' in .*append-only"):
        tables.replace(home, "inbox", rows("inbox", "a"))


@pytest.mark.parametrize("content", ["", '{"add": {"pa', "\x00 nonsense", json.dumps({"protocol": {"minReaderVersion": 99}})])
def test_a_damaged_log_is_told_with_its_table(home: Workspace, content: str) -> None:
    for name in "abc":
        tables.append(home, "inbox", rows("inbox", name))
    (Path(location(home, "inbox")) / "_delta_log" / f"{2:020}.json").write_text(content)
    if not content:
        (Path(location(home, "inbox")) / "_delta_log" / f"{1:020}.json").unlink()
    for use in (lambda: tables.version(home, "inbox"), lambda: tables.append(home, "inbox", rows("inbox", "d"))):
        with pytest.raises(InputError, match=r"table 'inbox' in .*restore it from a backup"):
            use()


def test_a_table_without_its_log_is_not_taken_for_one_that_was_never_there(home: Workspace) -> None:
    tables.append(home, "inbox", rows("inbox", "a"))
    for path in (Path(location(home, "inbox")) / "_delta_log").iterdir():
        path.unlink()
    for use in (lambda: tables.version(home, "inbox"), lambda: tables.append(home, "inbox", rows("inbox", "b"))):
        with pytest.raises(InputError, match=r"table 'inbox' in .* has data files and no log.*Restore the folder"):
            use()


FILL_THE_DISK = """
import os, resource, signal, sys
import pyarrow as pa
from finsent.data import tables
from finsent.errors import InputError
from finsent.workspace import resolve_workspace

home = resolve_workspace({"FINSENT_HOME": sys.argv[1]})
row = pa.Table.from_pylist([{"id": "a"}], schema=tables.SCHEMAS["inbox"])
tables.append(home, "inbox", row)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    tables.append(home, "inbox", row)
except InputError as error:
    print(error, flush=True)
os._exit(0)
"""


def test_a_disk_that_is_full_is_told_as_that(home: Workspace) -> None:
    command = [sys.executable, "-c", FILL_THE_DISK, str(home.root)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "table 'inbox' in" in said
    assert "no space is left: free some" in said
    assert tables.read(home, "inbox").num_rows == 1


def test_a_damaged_data_file_is_told_with_its_table(home: Workspace) -> None:
    tables.append(home, "inbox", rows("inbox", "a"))
    (file,) = Path(location(home, "inbox")).glob("*.parquet")
    for content in (file.read_bytes()[:99], b""):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"table 'inbox' in .*restore it from a backup"):
            tables.read(home, "inbox")


def test_a_store_that_does_not_answer_is_an_outage_and_a_wrong_address_is_none(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "x", "ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    def shared(url: str) -> Workspace:
        return resolve_workspace({"FINSENT_HOME": str(home.root), "FINSENT_TABLES": url})

    with pytest.raises(ServiceError, match=r"table 'inbox' in 's3://desk/tables': OSError: .*the store does not answer") as told:
        tables.version(shared("s3://desk/tables"), "inbox")
    assert told.value.retryable
    assert "\x1b" not in str(told.value)
    for url in ("ftp://desk/tables", "memory://tables", "abfs://desk@store/tables", "s3:///tables"):
        with pytest.raises(InputError, match=r"check the address \(FINSENT_TABLES\)"):
            tables.version(shared(url), "inbox")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    with pytest.raises(InputError, match="check the credentials in the environment"):
        tables.version(shared("s3://desk/tables"), "inbox")
