"""Kill -9 between every two steps of a promotion, an approval, a rejection and a rollback, in real processes.

Every write to audit log, registry and MLflow is a place to die. Whatever the place: readers find a champion at every moment,
it is the old one or the new one, the audit log is whole and agrees with MLflow, and the same command again ends where
an uninterrupted one ends.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import time

import pytest

from finsent.errors import CheckFailed
from finsent.registry import aliases, audit_log, tracking
from finsent.registry.audit_mirror import verify_audit_log
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps.context import make_context
from finsent.workspace import resolve_workspace
from tests.steps.promotion import AUTOMATIC, SIGNED, WITH_APPROVAL, evaluate_new, forget_connections, snapshot

WRITES = (
    "set_model_version_tag",
    "delete_model_version_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_registered_model_tag",
    "delete_registered_model_tag",
    "create_run",
    "set_terminated",
    "set_tag",
    "log_artifact",
    "log_artifacts",
    "log_text",
)
"""Methods of MLflow's client that change something, and that these operations use."""

OPERATIONS = {
    "promote": ("evaluated", lambda home: promote.promote(make_context(AUTOMATIC, home), version="2")),
    "ask": ("evaluated", lambda home: promote.promote(make_context(WITH_APPROVAL, home), version="2")),
    "approve": ("waiting", lambda home: promote.approve(make_context(WITH_APPROVAL, home), "2", *SIGNED)),
    "reject": ("waiting", lambda home: promote.reject(make_context(WITH_APPROVAL, home), "2", *SIGNED)),
    "rollback": ("promoted", lambda home: promote.rollback(make_context(AUTOMATIC, home), *SIGNED)),
}


@pytest.fixture(scope="module")
def moments(tmp_path_factory, _mlflow_store, make_adapter):
    """Snapshots of a registry: `evaluated` (1 is champion, 2 has evidence), `waiting` and `promoted` (2 waits, 2 is champion)."""
    found = {}
    for name, config in (("evaluated", AUTOMATIC), ("waiting", WITH_APPROVAL)):
        home = resolve_workspace({"FINSENT_HOME": str(tmp_path_factory.mktemp(name) / "home")})
        home.root.mkdir()
        shutil.copyfile(_mlflow_store, home.root / "mlflow.db")
        evaluate_new(home, make_adapter(0))
        promote.promote(make_context(AUTOMATIC, home))
        evaluate_new(home, make_adapter(0), champion="1", config=config)
        found[f"{name}-kept"] = snapshot(home, tmp_path_factory.mktemp("kept") / "home")
        promote.promote(make_context(config, home), version="2")
        found["waiting" if config is WITH_APPROVAL else "promoted"] = snapshot(home, tmp_path_factory.mktemp("kept") / "home")
    return {"evaluated": found["evaluated-kept"], "asked": found["waiting-kept"], **found}


def moment(moments, name):
    start = OPERATIONS[name][0]
    return moments["asked" if name == "ask" else start]


def die_at(place):
    """From here on this process kills itself just before its write number `place`; returns a function that counts them."""
    from mlflow import MlflowClient

    made = []

    def counted(real):
        def write(*args, **kwargs):
            if len(made) == place:
                os.kill(os.getpid(), signal.SIGKILL)
            made.append(real.__name__)
            return real(*args, **kwargs)

        return write

    for method in WRITES:
        setattr(MlflowClient, method, counted(getattr(MlflowClient, method)))
    audit_log._append_locked = counted(audit_log._append_locked)
    return made


def in_child(home, operation, place):
    """Run the operation in a process of its own; returns how it ended, its writes, and the champions that a reader saw."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        code = 3
        with contextlib.suppress(BaseException):
            forget_connections(inherited=True)
            made = die_at(place)
            operation(home)
            os.write(send, " ".join(made).encode())
            code = 0
        os._exit(code)
    os.close(send)
    seen = set()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        seen.add(champion_of(home))
        if done:
            break
        time.sleep(0.01)
    with os.fdopen(receive, "rb") as pipe:
        made = pipe.read().decode().split()
    return os.waitstatus_to_exitcode(status), made, seen


def champion_of(home):
    """What a reader in another process finds, by the store itself."""
    with contextlib.closing(sqlite3.connect(f"file:{home.root / 'mlflow.db'}?mode=ro", uri=True, timeout=30)) as store:
        rows = store.execute("select version from registered_model_aliases where alias = 'champion'").fetchall()
    assert len(rows) == 1, rows
    return str(rows[0][0])


def state(home):
    """Everything about the versions that outlasts an operation, except when it was and what was written on the way."""
    client = tracking.connect(home)
    passing = {"audit_log_entry", "approval_requested_at"}
    tags = {
        str(version.version): {key: value for key, value in version.tags.items() if key not in passing}
        for version in client.search_model_versions("name='finsent'")
    }
    return Registry(home, "finsent").aliases(), tags, client.get_registered_model("finsent").tags


def assert_legal(home, old, new):
    """One of the states that a registry may be in, once the next operation has looked at it."""
    found = champion_of(home)
    assert found in {old, new}
    verify_audit_log(Registry(home, "finsent"))
    aliases.reconcile_aliases(Registry(home, "finsent"))
    carried, tags, _ = state(home)
    assert carried["champion"] == found
    assert [version for version, own in tags.items() if own["stage"] == "Production"] == [found]
    assert [version for version, own in tags.items() if own["stage"] == "Staging"] == [
        version for alias, version in carried.items() if alias == "challenger"
    ]
    assert carried.get("previous") == (tags[found].get("replaces") or None)
    assert "challenger" not in carried or carried["challenger"] != found


@pytest.fixture(scope="module")
def uninterrupted(moments):
    """`uninterrupted(name)`: the writes of an operation that nothing stops, and where it ends."""
    known = {}

    def run(name):
        if name not in known:
            home = moment(moments, name).restore()
            code, made, _ = in_child(home, OPERATIONS[name][1], None)
            assert code == 0
            forget_connections()
            known[name] = (made, state(home), champion_of(home))
        return known[name]

    return run


def assert_recovers(moments, uninterrupted, name, place):
    made, ended, new = uninterrupted(name)
    kept = moment(moments, name)
    home = kept.restore()
    old = champion_of(home)
    code, _, seen = in_child(home, OPERATIONS[name][1], place)
    assert code == -signal.SIGKILL, f"before write {place}, {made[place]}"
    assert seen <= {old, new}
    assert_legal(home, old, new)
    try:
        OPERATIONS[name][1](home)
    except CheckFailed:  # what was killed had nothing left to do
        assert state(home) == ended
    assert state(home) == ended, f"killed before write {place}, {made[place]}"
    assert champion_of(home) == new
    verify_audit_log(Registry(home, "finsent"))


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_write_in_the_order_that_makes_them_safe(uninterrupted, name):
    """Ledger, its copy, and only then an alias: at every place to die the record is ahead of what it allows."""
    made, _, _ = uninterrupted(name)
    moves = [place for place, write in enumerate(made) if "alias" in write]
    assert made[0] == "_append_locked"
    assert made.index("log_artifact") < min(moves)
    assert 8 <= len(made) <= 40


@pytest.mark.parametrize("when", ["recorded", "moved"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_between_record_and_alias_and_right_after_the_alias(moments, uninterrupted, name, when):
    """The two places that matter most; the long test goes through all of them."""
    made = uninterrupted(name)[0]
    alias = next(place for place, write in enumerate(made) if "alias" in write)
    assert_recovers(
        moments, uninterrupted, name, made.index("log_artifact") if when == "recorded" else min(alias + 1, len(made) - 1)
    )


@pytest.mark.long
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_place(moments, uninterrupted, name):
    for place in range(len(uninterrupted(name)[0])):
        assert_recovers(moments, uninterrupted, name, place)
