"""The audit log's records in MLflow: what version tags and mirror show about the file in the home."""

import shutil

import pytest

from finsent.errors import CheckFailed, InputError, ServiceError, TrackingError
from finsent.registry import audit_log, audit_mirror, tracking
from finsent.registry.client import Registry


@pytest.fixture
def recorded(mlflow_home, bare_version):
    """A home with three entries on record."""
    bare_version()
    for number in range(3):
        audit_mirror.append_entry(Registry(mlflow_home, "finsent"), "1", {"action": "gate", "number": number})
    return mlflow_home


def copied(home):
    return audit_mirror.verify_mirror(Registry(home, "finsent"))


def test_each_entry_is_copied_into_one_run(recorded):
    client = tracking.connect(recorded)
    run = audit_mirror.find_run(Registry(recorded, "finsent"))
    assert copied(recorded) == 3
    (content,) = [file.read_bytes() for file in recorded.artifacts.glob("**/audit_log/audit_log.jsonl")]
    assert content == recorded.audit_log.read_bytes()
    head = audit_log.verify(recorded.audit_log)
    assert run.data.tags[audit_mirror.MIRROR_HEAD] == f"2 {head.hash}"
    assert (run.info.status, run.data.tags["kind"], run.data.tags["registered_model"]) == ("FINISHED", "audit_log", "finsent")
    audit_mirror.append_entry(Registry(recorded, "finsent"), "1", {"action": "gate"})
    assert copied(recorded) == 4
    assert audit_mirror.find_run(Registry(recorded, "finsent")).info.run_id == run.info.run_id
    assert len(client.search_runs([run.info.experiment_id], "tags.kind = 'audit_log'")) == 1


def test_a_copy_that_lags_behind_or_was_cut_short_is_no_alarm(recorded):
    whole = recorded.audit_log.read_bytes()
    audit_log.append(recorded.audit_log, {"action": "gate", "model": "finsent", "version": "1"})  # killed before the copy
    assert copied(recorded) == 3
    (file,) = recorded.artifacts.glob("**/audit_log/audit_log.jsonl")
    file.write_bytes(whole[:-20])  # killed while copying
    assert copied(recorded) == 2
    audit_mirror.append_entry(Registry(recorded, "finsent"), "1", {"action": "gate", "number": 4})
    assert copied(recorded) == 5


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda lines: lines[:2], "line 3 is missing, and the mirror in MLflow has 3 lines"),
        (lambda lines: lines[:1], "line 2 is missing"),
        (lambda lines: [lines[0], lines[2], lines[1]], "line 2 is not that of the mirror"),
        (lambda lines: [lines[0], lines[1].replace(b'"number":1', b'"number":9'), lines[2]], "line 2 is not that of the mirror"),
        (lambda _: [], "line 1 is missing"),
    ],
)
def test_the_copy_names_the_line(recorded, edit, reason):
    lines = recorded.audit_log.read_bytes().splitlines()
    recorded.audit_log.write_bytes(b"".join(line + b"\n" for line in edit(lines)))
    with pytest.raises(CheckFailed, match=reason):
        copied(recorded)


def test_a_chain_computed_anew_is_found_by_the_registry(recorded):
    entries = audit_log.read(recorded.audit_log)
    recorded.audit_log.unlink()
    for entry in entries:
        kept = {key: value for key, value in entry.items() if key not in {"seq", "at", "hash", "previous_hash"}}
        audit_log.append(recorded.audit_log, kept | {"number": 7})
    assert audit_log.verify(recorded.audit_log).length == 3
    with pytest.raises(CheckFailed, match=r"line 3: it has another entry 2: it was replaced"):
        audit_mirror.append_entry(Registry(recorded, "finsent"), "1", {"action": "gate"})
    tracking.connect(recorded).delete_model_version_tag("finsent", "1", audit_mirror.VERSION_TAG)
    with pytest.raises(CheckFailed, match=r"MLflow knows entry 2, of the mirror in MLflow"):
        audit_mirror.verify_against_registry(Registry(recorded, "finsent"))


def test_an_edited_line_stops_the_next_entry(recorded):
    edited = recorded.audit_log.read_bytes().replace(b'"number":1', b'"number":9')
    recorded.audit_log.write_bytes(edited)
    with pytest.raises(CheckFailed, match="line 2: the entry was changed after it was written"):
        audit_mirror.append_entry(Registry(recorded, "finsent"), "1", {"action": "gate"})
    assert recorded.audit_log.read_bytes() == edited


def test_a_copy_that_fails_loses_nothing_and_the_next_one_has_all(recorded):
    (folder,) = recorded.artifacts.glob("**/audit_log")
    shutil.rmtree(folder)
    folder.write_text("a file where the folder was")
    tracking.connect(recorded)
    with pytest.raises(ServiceError, match=r"could not be copied to MLflow .* no alias has moved. Run the same command again"):
        audit_mirror.append_entry(Registry(recorded, "finsent"), "1", {"action": "gate", "number": 3})
    assert audit_log.verify(recorded.audit_log).length == 4
    folder.unlink()
    audit_mirror.append_entry(Registry(recorded, "finsent"), "1", {"action": "gate", "number": 3})
    assert copied(recorded) == 4, "the same entry, whose records are completed"


@pytest.mark.parametrize("fails", ["log_artifact", "set_tag", "set_model_version_tag"])
def test_an_entry_whose_records_failed_is_found_again_and_completed(recorded, monkeypatch, fails):
    registry, entry = Registry(recorded, "finsent"), {"action": "test_set_use", "data_version": 1}
    with monkeypatch.context() as away:
        away.setattr(registry.client, fails, _away)
        for _ in range(3):
            with pytest.raises(ServiceError):
                audit_mirror.append_entry(registry, "1", entry, counts_again=True)
    assert audit_log.verify(recorded.audit_log).length == 4
    written = audit_mirror.append_entry(registry, "1", entry, counts_again=True)
    assert (written["seq"], copied(recorded)) == (3, 4)
    assert registry.get_version("1").tags[audit_mirror.VERSION_TAG] == f"3 {written['hash']}"
    assert audit_mirror.append_entry(registry, "1", entry, counts_again=True)["seq"] == 4, "complete: this is another use"
    assert audit_mirror.append_entry(registry, "1", entry)["seq"] == 4, "the same decision once more is no other one"


def test_what_mlflow_says_no_to_is_not_tried_again(recorded, monkeypatch):
    def rejected(*_args, **_kwargs):
        raise TrackingError("the run must be active", "INVALID_PARAMETER_VALUE")

    registry, entry = Registry(recorded, "finsent"), {"action": "gate", "number": 3}
    with monkeypatch.context() as deleted:
        deleted.setattr(registry.client, "set_tag", rejected)
        with pytest.raises(TrackingError, match=r"no alias has moved. Look at the run 'audit-log-finsent' in MLflow") as found:
            audit_mirror.append_entry(registry, "1", entry)
        assert not found.value.retryable
        deleted.setattr(registry.client, "list_artifacts", rejected)
        with pytest.raises(TrackingError, match=r"cannot be fetched from MLflow .the run must be active."):
            audit_mirror.verify_mirror(registry)
    audit_mirror.append_entry(registry, "1", entry)
    assert copied(recorded) == 4


def _away(*_args, **_kwargs):
    raise ServiceError("the server is away")


def test_nothing_is_recorded_where_its_mirror_has_no_place(recorded):
    registry = Registry(recorded, "finsent")
    registry.client.delete_experiment(registry.client.get_experiment_by_name("finsent").experiment_id)
    with pytest.raises(InputError, match="experiment 'finsent' was deleted"):
        audit_mirror.append_entry(registry, "1", {"action": "gate", "number": 3})
    assert audit_log.verify(recorded.audit_log).length == 3


def test_an_unfinished_write_is_left_to_the_next_entry(recorded):
    with recorded.audit_log.open("ab") as file:
        file.write(b'{"action":"ga')
    written = audit_mirror.append_entry(Registry(recorded, "finsent"), "1", {"action": "gate"})
    assert written["dropped_bytes"] == 13
    assert copied(recorded) == 4
