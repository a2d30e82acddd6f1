"""Scoring on real Ray: the same table as by one process, also when an actor, a node or the driver dies midway."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from finsent.config.model_schema import RayConfig
from finsent.data import tables
from finsent.errors import ConfigError, DeviceError, ServiceError
from finsent.scoring import pending_rows, writer
from finsent.scoring.chunk_pipeline import score_chunks
from finsent.scoring.predictor import load_local
from finsent.scoring.ray_actors import ray_actors
from finsent.workspace import Workspace
from tests.scoring.filled_inbox import MODEL, STAMP, fill, make_texts, spec_of

pytest.importorskip("ray", reason="Ray is not installed: pip install 'finsent[ray]'")
pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # transformers' own
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray leaves its processes' log files to the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TEXTS = make_texts(120)
TWEETS = [*TEXTS, *TEXTS[:9]]
PAIR = {"min_actors": 2, "max_actors": 2}


@pytest.fixture
def filled(home: Workspace) -> Workspace:
    return fill(home, TWEETS)


def commits(home: Workspace, predictor) -> Iterator[object]:
    """Score all that is due in chunks of 8 rows; yields after each commit."""
    before = writer.read_position(home)
    rows = pending_rows.find_pending(home, MODEL, max_characters=5000).rows
    for chunk in score_chunks(home, predictor, rows, pending_rows.chunk_bounds(len(rows), 8), STAMP, before):
        assert chunk is not None
        yield chunk


def read(home: Workspace) -> list[dict]:
    return tables.read(home, "predictions").drop_columns(["scored_at"]).sort_by("id").to_pylist()


@pytest.fixture
def alone(tmp_path: Path, filled: Workspace, make_adapter) -> list[dict]:
    """The table that one process writes."""
    other = fill(Workspace(tmp_path / "other", str(tmp_path / "other-tables"), filled.tracking_uri), TWEETS)
    list(commits(other, load_local(spec_of(make_adapter(0), other), "cpu")))
    return read(other)


def actors() -> list[psutil.Process]:
    """Processes of actors that hold the model."""
    return [
        process for process in psutil.process_iter(["cmdline"]) if (process.info["cmdline"] or [""])[0].startswith("ray::_Model")
    ]


def test_two_actors_write_the_table_of_one_process_though_one_is_killed(filled, alone, make_adapter, home, tmp_path):
    before = set(actors())
    with ray_actors(spec_of(make_adapter(0), filled), RayConfig(**PAIR)) as predictor:
        assert predictor.engine.devices == ("ray:0", "ray:1")
        first, *_ = predictor.predict(iter([TEXTS[:3], TEXTS[3:5]]))
        given_up = predictor.predict(iter([[text] for text in TEXTS]))
        next(given_up)
        given_up.close()  # what is under way is thrown away, and nothing of it is taken for what comes next
        again = list(predictor.predict(iter([TEXTS[:3], TEXTS[3:5], []])))
        assert (again[0].logits == first.logits).all()
        assert [len(part.logits) for part in again] == [3, 2, 0]
        done = commits(filled, predictor)
        for _ in range(3):
            next(done)
        victims = set(actors()) - before
        assert len(victims) == 2
        os.kill(victims.pop().pid, signal.SIGKILL)
        list(done)
        assert read(filled) == alone  # to the last bit: the chunks are the same; none lost, none doubled
        with pytest.raises(DeviceError, match=r"scoring on Ray, on node .* failed: ValueError: text input .*run this again"):
            list(predictor.predict(iter([TEXTS[:2], [None], TEXTS[2:4]])))
    deadline = time.monotonic() + 60
    while set(actors()) - before:
        assert time.monotonic() < deadline, "an actor outlived the run"
        time.sleep(0.5)


def test_node_that_is_killed_costs_its_chunks_alone_and_wrong_nodes_are_told(filled, alone, make_adapter, home, tmp_path):
    import ray
    from ray.cluster_utils import Cluster
    from ray.experimental.internal_kv import _internal_kv_put

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = cluster.add_node(num_cpus=1)
        settings = RayConfig(address=cluster.address, **PAIR)
        with (
            pytest.raises(
                DeviceError, match=r"the adapter's folder .*nowhere' is not on this node\. Mount the home at the same path"
            ),
            ray_actors(spec_of(tmp_path / "nowhere", filled), settings),
        ):
            pass
        with (
            pytest.raises(DeviceError, match=r"room for [012] of 3 actors in 1 s .*Each needs 1 cores and 0 GPUs"),
            ray_actors(spec_of(make_adapter(0), filled), settings.model_copy(update={"min_actors": 3, "wait_seconds": 1.0})),
        ):
            pass
        with ray_actors(spec_of(make_adapter(0), filled), settings) as predictor:
            done = commits(filled, predictor)
            for _ in range(3):
                next(done)
            cluster.remove_node(other, allow_graceful=False)
            list(done)
        assert read(filled) == alone
        ray.init(address=cluster.address, log_to_driver=False)
        _internal_kv_put(
            b"CLUSTER_METADATA", b'{"ray_version": "2.59.0", "python_version": "3.10.4"}', overwrite=True, namespace=b"cluster"
        )
        ray.shutdown()
        with (
            pytest.raises(ConfigError, match=r"another Ray or Python: .*Ray: 2\.59\.0 Python: 3\.10\.4 .*one image"),
            ray_actors(spec_of(make_adapter(0), filled), settings),
        ):
            pass
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_own_cluster_asks_for_a_token_and_its_lost_head_is_told(filled, make_adapter, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # a user's setting for other clusters
    stranger = "import sys, ray; ray.init(address=sys.argv[1])"
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_NUM_REDIS_GET_RETRIES": "1"}
    with (  # noqa: PT012 - all of it is one run
        pytest.raises(ServiceError, match=r"head of the Ray cluster .* has not answered for \d\d s: .*run this again"),
        ray_actors(spec_of(make_adapter(0), filled), RayConfig()) as predictor,
    ):
        import ray

        address = ray.get_runtime_context().gcs_address
        refused = subprocess.run(
            [sys.executable, "-c", stranger, address], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert refused.returncode
        assert "Unauthenticated" in refused.stderr
        (head,) = (found for found in psutil.Process().children(recursive=True) if found.name() == "gcs_server")
        head.kill()
        while True:
            list(predictor.predict(iter([TEXTS[:2]])))  # actors still answer
            time.sleep(1)
    assert os.environ["RAY_AUTH_MODE"] == "disabled"


KILLED = """
import sys
from pathlib import Path
from finsent.config.model_schema import RayConfig
from finsent.scoring.ray_actors import ray_actors
from finsent.workspace import resolve_workspace
from tests.scoring.filled_inbox import spec_of
from tests.scoring.test_ray_actors import PAIR, commits

if __name__ == "__main__":
    home = resolve_workspace({"FINSENT_HOME": sys.argv[2]})
    with ray_actors(spec_of(Path(sys.argv[1]), home), RayConfig(**PAIR)) as predictor:
        for _ in commits(home, predictor):
            print("committed", flush=True)
            sys.stdin.readline()
"""


def test_killed_driver_leaves_whole_chunks_and_a_rerun_ends_with_the_same_table(filled, alone, make_adapter, tmp_path):
    before = set(actors())
    script = tmp_path / "driver.py"
    script.write_text(KILLED, encoding="utf-8")
    arguments = [sys.executable, str(script), str(make_adapter(0)), str(filled.root)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        for _ in range(3):
            assert driver.stdout.readline() == "committed\n"
            driver.stdin.write("\n")
            driver.stdin.flush()
        driver.kill()
    committed = len(read(filled))
    assert 24 <= committed < len(alone)
    with ray_actors(spec_of(make_adapter(0), filled), RayConfig(**PAIR)) as predictor:
        list(commits(filled, predictor))
    assert read(filled) == alone
    deadline = time.monotonic() + 60
    while set(actors()) - before:
        assert time.monotonic() < deadline, "an actor outlived its killed driver"
        time.sleep(0.5)
