"""Sources and tables in an object store: a server that speaks S3, as a process of its own."""

import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finsent.config import Source, load_config
from finsent.data import tables
from finsent.data.sources import s3
from finsent.data.sources.formats import fingerprint_file, read_rows
from finsent.data.sources.records import RawRow, labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import InputError, ServiceError
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.workspace import resolve_workspace

pytest.importorskip("moto", reason="no S3 server here")

ROWS = [(f"tweet {n} 🚀", "Bullish") for n in range(5000)]
CSV = ("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)).encode()
JSONL = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS).encode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a store that holds the bucket `desk`."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)
        url = f"http://127.0.0.1:{port}"
        fill(url, tmp_path_factory.mktemp("objects"))
        yield url
        process.send_signal(signal.SIGINT)


def client(url: str) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b", region_name="eu-west-1")


def zipped(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in files.items():
            archive.writestr(name, body)
    return packed.getvalue()


def fill(url: str, scratch: Path) -> None:
    pq.write_table(pa.table({"text": [t for t, _ in ROWS], "label": [x for _, x in ROWS]}), scratch / "a.parquet")
    with pa.CompressedOutputStream(str(scratch / "a.zst"), "zstd") as out:
        out.write(JSONL)
    bodies = {
        "day/a.csv": CSV,
        "day/b=2/c, d+é.csv.gz": gzip.compress(CSV),
        "day/deep/er/a.jsonl.zst": (scratch / "a.zst").read_bytes(),
        "day/a.parquet": (scratch / "a.parquet").read_bytes(),
        "day/notes.txt": b"not tweets",
        "day/marker/": b"",
        "bad/cut.csv.gz": gzip.compress(CSV)[:-30],
        "zip/a.zip": zipped(**{"a.csv": CSV, "README.md": b"read me"}),
        "zip/rows.json.zip": zipped(**{"rows.json": b'{"meta": [{"x": 1}], "data": [' + b",".join(JSONL.splitlines()) + b"]}"}),
        "zip/two.zip": zipped(**{"a.csv": CSV, "b.csv": CSV}),
        "bad/empty.csv": b"",
        "bad/not.parquet": CSV,
        "[odd].csv": CSV,
    }
    store = client(url)
    store.create_bucket(Bucket="desk", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for key, body in bodies.items():
        store.put_object(Bucket="desk", Key=key, Body=body)


@pytest.fixture
def store(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The store, named in the environment as AWS's own tools want it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials of whoever runs the tests
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return endpoint


def rows_of(source: Source) -> list[RawRow]:
    return [row for file in resolve(source) for batch in read_rows(file, labelled_columns(source)) for row in batch]


@pytest.mark.usefixtures("store")
def test_archives_and_lists_within_documents() -> None:
    for source in (Source(uri="s3://desk/zip/a.zip"), Source(uri="s3://desk/zip/rows.json.zip", records="data")):
        (file,) = resolve(source)
        assert [(row.text, row.label) for batch in read_rows(file, labelled_columns(source)) for row in batch] == ROWS
        assert fingerprint_file(file)["etag"]
    with pytest.raises(InputError, match=r"'s3://desk/zip/two\.zip' is a ZIP archive of 2 files \('a\.csv', 'b\.csv'\)"):
        rows_of(Source(uri="s3://desk/zip/two.zip"))


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("key", ["day/a.csv", "day/b=2/c, d+é.csv.gz", "day/deep/er/a.jsonl.zst", "day/a.parquet", "[odd].csv"])
def test_objects_of_every_format(key: str) -> None:
    source = Source(uri=f"s3://desk/{key}")
    (file,) = resolve(source)
    assert file.name == key.rpartition("/")[2].partition(".")[0]
    rows = [row for batch in read_rows(file, labelled_columns(source)) for row in batch]
    assert [(row.text, row.label) for row in rows] == ROWS
    assert [row.number for row in rows] == list(range(1, 5001))
    found = fingerprint_file(file)
    (fresh,) = resolve(source)
    assert found["sha256"] == fingerprint_file(fresh)["sha256"]
    assert len(str(found["sha256"])) == 64
    assert (found["uri"], len(str(found["etag"]))) == (f"s3://desk/{key}", 32)
    assert int(found["bytes"]) > 100


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("s3://desk/day", ["a", "a", "c, d+é", "a"]),
        ("s3://desk/day/", ["a", "a", "c, d+é", "a"]),
        ("s3://desk/day/*.csv", ["a"]),
        ("s3://desk/day/**/*.csv*", ["a", "c, d+é"]),
        ("s3://desk/*/*.parquet", ["not", "a"]),
    ],
)
def test_folders_and_globs(uri: str, found: list[str]) -> None:
    assert [file.name for file in resolve(Source(uri=uri))] == found
    named = resolve(Source(uri=uri, name="all"))
    assert {file.name for file in named} == {"all"}


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://dsk/day/a.csv", "there is no bucket 'dsk'"),
        ("s3://dsk", "there is no bucket 'dsk'"),
        ("s3://desk/day/b.csv", "there is no object 's3://desk/day/b.csv'. Check the key. Did you mean 'a.csv'?"),
        ("s3://desk/dya/a.csv", "there is no object"),
        ("s3://desk/day/*.tsv", "no object matches"),
        ("s3://desk/day/marker", "holds nothing that ends in"),
        ("s3://desk/day/notes.txt", "ending '.txt' is not understood"),
        ("s3://", "names no bucket"),
        ("s3://reader:hunter2@desk/a.csv", "names no bucket"),
        ("s3://desk/bad/cut.csv.gz", "damaged or cut short"),
        ("s3://desk/bad/empty.csv", "is empty"),
        ("s3://desk/bad/not.parquet", "cannot be read as Parquet"),
    ],
)
def test_wrong_addresses_and_objects(uri: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        rows_of(Source(uri=uri))
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.usefixtures("store")
def test_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match=r"denies access \(AWS_ACCESS_KEY_ID is not set\)"):
        rows_of(Source(uri="s3://desk/day/a.csv"))


@pytest.mark.usefixtures("store")
def test_an_unreachable_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")  # goes before AWS_ENDPOINT_URL
    started = time.monotonic()
    with pytest.raises(ServiceError, match=r"does not answer .*Check AWS_ENDPOINT_URL"):
        rows_of(Source(uri="s3://desk/day/a.csv"))
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("store")
def test_addresses_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'s3://desk//a.csv' cannot be read .*Empty path component"):
        resolve(Source(uri="s3://desk//a.csv"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "ftp://127.0.0.1")
    with pytest.raises(InputError, match=r"Invalid S3 connection scheme 'ftp'.*AWS_ENDPOINT_URL"):
        resolve(Source(uri="s3://desk/a.csv"))


@pytest.mark.usefixtures("store")
def test_a_store_that_accepts_connections_and_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_REQUEST_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(ServiceError, match="does not answer"):
            resolve(Source(uri="s3://desk/day/a.csv"))
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("name", ["swap.csv", "swap.parquet"])
def test_an_object_that_is_replaced_while_it_is_read(store: str, tmp_path: Path, name: str) -> None:
    table = pa.table({"text": [f"tweet {n}" for n in range(9000)], "label": ["Bullish"] * 9000})
    pq.write_table(table, tmp_path / "a.parquet")
    body = (tmp_path / "a.parquet").read_bytes() if "parquet" in name else CSV * 10
    client(store).put_object(Bucket="desk", Key=name, Body=body)
    source = Source(uri=f"s3://desk/{name}")
    batches = read_rows(resolve(source)[0], labelled_columns(source))
    assert len(next(batches)) == 4096
    client(store).put_object(Bucket="desk", Key=name, Body=body[:-8] + b"x" * 8)
    with pytest.raises(InputError, match="replaced while it was read"):
        list(batches)


def test_ingestion_from_the_store_into_tables_in_the_store(store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client(store).create_bucket(Bucket="tables", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")  # Delta's client refuses plain HTTP otherwise
    home = resolve_workspace({"FINSENT_HOME": str(tmp_path / "home"), "FINSENT_TABLES": "s3://tables/finsent"})
    body = "text,label\nshares of Acme rise on strong results,Bullish\nBeta Corp sinks after a profit warning,Bearish\nhm,what\n"
    client(store).put_object(Bucket="desk", Key="small/news.csv", Body=body.encode())
    source = Source(uri="s3://desk/small/*.csv", name="desk")
    report = ingest(make_context(load_config(), home), [source])
    assert (report.read, report.accepted, report.quarantined, report.version) == (3, 2, 1, 1)
    again = ingest(make_context(load_config(), home), [source])
    assert (again.read, again.accepted, again.duplicates, again.version) == (3, 0, 2, 1)
    assert sorted(tables.read(home, "tweets")["label"].to_pylist()) == ["Bearish", "Bullish"]
    assert tables.read(home, "quarantine").num_rows == 1
    keys = [item["Key"] for item in client(store).list_objects_v2(Bucket="tables", Prefix="finsent/tweets/")["Contents"]]
    assert any("_delta_log" in key for key in keys)
    assert not (tmp_path / "home" / "tables").exists()


APPEND_SOME = """
import sys
from datetime import UTC, datetime
import pyarrow as pa
from finsent.data import tables
from finsent.workspace import resolve_workspace

home, worker, now = resolve_workspace(), sys.argv[1], datetime.now(UTC)
for number in range(4):
    for name, transaction in ((f"{worker}-{number}", None), (f"shared-{number}", ("shared", number + 1))):
        row = pa.table({"id": [name], "text": ["x"], "created_at": [now], "received_at": [now]})
        tables.append(home, "inbox", row, transaction=transaction)
"""


def test_processes_append_side_by_side_to_a_table_in_the_store(
    store: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client(store).create_bucket(Bucket="shared", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    places = {"FINSENT_HOME": str(tmp_path / "home"), "FINSENT_TABLES": "s3://shared/finsent"}
    for name, value in {**places, "AWS_ALLOW_HTTP": "true"}.items():
        monkeypatch.setenv(name, value)
    workers = [
        subprocess.Popen([sys.executable, "-c", APPEND_SOME, str(worker)], stderr=subprocess.PIPE, text=True)
        for worker in range(2)
    ]
    for process in workers:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    found = tables.read(resolve_workspace(places), "inbox")["id"].to_pylist()
    assert sorted(name for name in found if "shared" not in name) == sorted(f"{w}-{n}" for w in range(2) for n in range(4))
    assert len(found) == len(set(found))
    assert "shared-3" in found


def test_objects_of_a_source_of_the_inbox_are_received_once(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finsent.config import DataConfig, InboxSource, ScoringConfig
    from finsent.data.inbox_sources import SourceArrivals, receive_sources

    home = resolve_workspace({"FINSENT_HOME": str(tmp_path / "home")})
    objects = client(store)
    objects.create_bucket(Bucket="inbox", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})

    def run(*uris: str) -> list[SourceArrivals]:
        sources = tuple(InboxSource(uri=uri) for uri in uris)
        return list(receive_sources(ScoringConfig(sources=sources), DataConfig(), home))

    def put(key: str, text: str) -> None:
        objects.put_object(Bucket="inbox", Key=key, Body=text.encode())

    assert run("s3://inbox/in/")[0].faults == (), "a folder that nobody filled yet"
    put("in/a.csv", "id,text\n1,up\n")
    put("in/b.csv", "id,text\n2,down\n")
    put("in/copy.csv", "id,text\n2,down\n")
    put("in/c.csv.part", "id,text\n3,do")
    put("in/bad.parquet", "not one")
    found, *others = run("s3://inbox/in", "s3://inbox/in/*.csv", "s3://inbox/typo", "s3://absent/in/")
    assert (found.files, found.files_before, found.received) == (2, 1, 2)
    assert [fault.uri for fault in found.faults] == ["s3://inbox/in/bad.parquet"]
    assert [[fault.state for fault in other.faults] for other in others] == [[], ["not read"], ["not read"]]
    monkeypatch.setattr("finsent.data.sources.arrivals._OBJECT_SETTLED", -1.0)  # as if they were older than a minute
    assert run("s3://inbox/in")[0].files_before == 3
    put("in/a.csv", "id,text\n1,up\n4,flat\n")
    put("in/bad.parquet", "nor this")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        (lost,) = run("s3://inbox/in")
        assert (lost.read, [fault.uri for fault in lost.faults]) == (0, ["s3://inbox/in"])
    (back,) = run("s3://inbox/in")
    assert (back.files, back.files_before, back.received, back.known) == (1, 2, 1, 1)
    assert [fault.uri for fault in back.faults] == ["s3://inbox/in/bad.parquet"]
