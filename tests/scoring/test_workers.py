"""Scoring by several processes: the same table as by one, and an end that says why when one of them fails."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from finsent.config.model_schema import EngineConfig
from finsent.data import tables
from finsent.errors import DeviceError
from finsent.models.manifest import verify_manifest
from finsent.scoring import pending_rows, writer
from finsent.scoring.chunk_pipeline import score_chunks
from finsent.scoring.predictor import load_local
from finsent.scoring.workers import choose_devices, model_workers
from finsent.workspace import Workspace
from tests.scoring.filled_inbox import MODEL, STAMP, fill, make_texts, spec_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # transformers' own
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

TEXTS = make_texts(60)
PAIR = ("cpu", "cpu")


@pytest.fixture
def filled(home: Workspace) -> Workspace:
    return fill(home, [*TEXTS, *TEXTS[:9]])


def score(home: Workspace, predictor, size: int) -> list[dict]:
    """The table of predictions after scoring all that is due."""
    before = writer.read_position(home)
    rows = pending_rows.find_pending(home, MODEL, max_characters=5000).rows
    done = list(score_chunks(home, predictor, rows, pending_rows.chunk_bounds(len(rows), size), STAMP, before))
    assert all(done)
    return tables.read(home, "predictions").drop_columns(["scored_at"]).sort_by("id").to_pylist()


def test_two_workers_write_the_table_that_one_process_writes_and_one_that_fails_ends_both(filled, make_adapter, tmp_path):
    other = Workspace(tmp_path / "other", str(tmp_path / "other-tables"), filled.tracking_uri)
    tables.append(other, "inbox", tables.read(filled, "inbox"))
    alone = score(other, load_local(spec_of(make_adapter(0), other), "cpu"), 8)
    with model_workers(spec_of(make_adapter(0), filled), PAIR) as predictor:
        assert (predictor.engine.name, predictor.engine.devices) == ("packed", PAIR)
        assert predictor.manifest == verify_manifest(make_adapter(0))
        assert score(filled, predictor, 8) == alone  # to the last bit: the chunks are the same
        first, *_ = predictor.predict(iter([TEXTS[:3], TEXTS[3:5]]))
        given_up = predictor.predict(iter([[text] for text in TEXTS]))
        next(given_up)
        given_up.close()  # what is under way is thrown away, and nothing of it is taken for what comes next
        again = list(predictor.predict(iter([TEXTS[:3], TEXTS[3:5], []])))
        with pytest.raises(DeviceError, match=r"'cpu' failed: ValueError: text input .*run this again") as caught:
            list(predictor.predict(iter([TEXTS[:2], [None], TEXTS[2:4]])))
    assert "in tokenise" in str(caught.value.__cause__)
    np.testing.assert_array_equal(again[0].logits, first.logits)
    assert [len(part.logits) for part in again] == [3, 2, 0]
    assert tables.version(filled, "predictions") == -(-69 // 8)  # created, then a commit for each chunk
    assert not multiprocessing.active_children()


@pytest.mark.long
def test_worker_that_cannot_open_the_model_is_named(home, tmp_path):
    with (
        pytest.raises(DeviceError, match=r"'cpu' failed: ArtifactError: .* holds no"),
        model_workers(spec_of(tmp_path, home), PAIR),
    ):
        pass
    assert not multiprocessing.active_children()


@pytest.mark.long
def test_killed_worker_ends_the_run_and_a_rerun_goes_on(filled, make_adapter):
    before = writer.read_position(filled)
    rows = pending_rows.find_pending(filled, MODEL, max_characters=5000).rows
    with model_workers(spec_of(make_adapter(0), filled), PAIR) as predictor:
        parts = score_chunks(filled, predictor, rows, pending_rows.chunk_bounds(len(rows), 2), STAMP, before)
        assert next(parts)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(DeviceError, match=r"'cpu' died \(killed by SIGKILL, as the kernel does when memory runs out"):
            list(parts)
    assert not multiprocessing.active_children()
    committed = len(tables.read(filled, "predictions"))
    assert committed % 2 == 0
    assert 2 <= committed < len(rows)
    rest = score(filled, load_local(spec_of(make_adapter(0), filled), "cpu"), 8)
    assert [row["id"] for row in rest] == sorted(rows["id"].to_pylist())


ENDED = """
import sys
from pathlib import Path
from finsent.config.model_schema import EngineConfig
from finsent.workspace import resolve_workspace
from finsent.scoring.predictor import ModelSpec
from finsent.scoring.workers import model_workers

if __name__ == "__main__":
    spec = ModelSpec(Path(sys.argv[1]), resolve_workspace({"FINSENT_HOME": sys.argv[2]}), EngineConfig(), 10, 64)
    with model_workers(spec, ("cpu", "cpu")) as predictor:
        import multiprocessing
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        for part in predictor.predict(["endless"] for _ in iter(int, 1)):
            pass
"""


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(home, make_adapter, tmp_path, how):
    script = tmp_path / "endless.py"
    script.write_text(ENDED, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", str(script), str(make_adapter(0)), str(home.root)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)  # as a terminal does
    else:
        parent.send_signal(how)
    _, stderr = parent.communicate(timeout=30)
    assert parent.returncode == -how, stderr
    if how == signal.SIGINT:
        assert stderr.count("KeyboardInterrupt") == 1  # the parent's alone
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_a_gpu_there_is_one_device_whatever_is_allowed():
    assert choose_devices(EngineConfig(), 10) == ("cpu",)
    assert choose_devices(EngineConfig(devices=4), 1_000_000) == ("cpu",)
