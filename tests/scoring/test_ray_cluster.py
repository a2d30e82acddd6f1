"""What stops scoring on Ray before anything is started: wrong settings, Ray not installed, a cluster that does not answer."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from finsent.config import RayConfig, load_config
from finsent.errors import ConfigError, DeviceError, ServiceError
from finsent.scoring.predictor import ChunkLogits, ModelSpec
from finsent.scoring.ray_actors import _next_chunk, _Pool, _pool_size, _take, _Work
from finsent.scoring.ray_cluster import (
    _locked,
    make_token,
    ray_cluster,
    require_ray,
    require_token_version,
    sweep_folders,
    watch_head,
)
from finsent.scoring.workers import open_predictor


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("engine=spark", "local"),
        ("ray.address=ray://10.0.0.2:10001", "Ray client"),
        ("ray.address=10.0.0.2", "no address of a Ray cluster"),
        ("ray.address='http://10.0.0.2:6379'", "no address of a Ray cluster"),
        ("ray={min_actors: 3, max_actors: 2}", "max_actors = 2 is less than .*min_actors = 3"),
        ("ray.gpus_per_actor=2", "less than or equal to 1"),
    ],
)
def test_wrong_settings_are_told(setting, message):
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[f"scoring.{setting}"])


@pytest.mark.parametrize("address", ["auto", "10.0.0.2:6379", "ray-head.default.svc:6379", "[fd00::2]:6379"])
def test_addresses_of_clusters_are_taken(address):
    config = load_config(overrides=["scoring.engine=ray", f"scoring.ray.address='{address}'"])
    assert (config.scoring.engine, config.scoring.ray.address) == ("ray", address)


def test_ray_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as Python says that there is none
    with pytest.raises(ConfigError, match=r"not installed here.*pip install 'finsent\[ray\]'.*scoring\.engine=local"):
        require_ray(RayConfig())


def test_cluster_that_does_not_answer_is_told_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", socket)  # installed, as far as this goes: nothing of it is used
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(
            ServiceError, match=rf"no Ray cluster answers at '{address}' \(scoring.ray.address\): .*refused.*ray start"
        ):
            require_ray(RayConfig(address=address))
    with pytest.raises(ServiceError, match="no Ray cluster answers"):
        require_ray(RayConfig(address="127.0.0.1:99999"))
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:  # as Ray's own dashboard
        threading.Thread(target=other.serve_forever).start()
        with pytest.raises(ServiceError, match=r"what listens there is no head of a Ray cluster, whose port is 6379"):
            require_ray(RayConfig(address=f"127.0.0.1:{other.server_port}"))
        other.shutdown()


def test_devices_of_this_machine_are_not_taken_together_with_ray(home, tmp_path):
    spec = ModelSpec(tmp_path, home, load_config().engine, 10, 64)
    with pytest.raises(ConfigError, match=r"devices cuda:0 are of this machine"), open_predictor(spec, ["cuda:0"], RayConfig()):
        pass


@pytest.mark.parametrize(
    ("resources", "settings", "rows", "size"),
    [
        ({"CPU": 8.0}, {}, 1_000_000, 8),
        ({"CPU": 8.0}, {"cores_per_actor": 3}, 1_000_000, 2),
        ({"CPU": 8.0}, {}, 12_000, 2),  # fewer texts are computed sooner than another actor has loaded the model
        ({"CPU": 8.0}, {}, 10, 1),
        ({"CPU": 8.0}, {"min_actors": 3}, 10, 3),
        ({"CPU": 64.0, "GPU": 4.0}, {"gpus_per_actor": 1.0}, 1_000_000, 4),
        ({"CPU": 64.0, "GPU": 4.0}, {"gpus_per_actor": 0.5, "max_actors": 6}, 1_000_000, 6),
        ({"CPU": 1.0}, {"gpus_per_actor": 1.0, "max_actors": 6}, 1_000_000, 6),  # the cluster adds nodes as they are asked for
        ({}, {}, 1_000_000, 1),
    ],
)
def test_pool_has_as_many_actors_as_fit_and_have_work(resources, settings, rows, size):
    assert _pool_size(resources, RayConfig(**settings), rows) == size


def test_chunks_are_fetched_as_far_as_the_window_and_lost_ones_go_out_first(home, tmp_path):
    fetched: list[int] = []

    def chunks() -> Iterator[list[str]]:
        for number in range(100):
            fetched.append(number)
            yield [f"text {number}"]

    pool = _Pool(None, RayConfig(), ModelSpec(tmp_path, home, load_config().engine, 10, 64), size=2)
    work = _Work(chunks())
    sent = []
    while (number := _next_chunk(pool, work)) is not None:
        sent.append(number)
    assert sent == fetched == list(range(8))  # a slow committer or a lost chunk holds up everything, not fills memory
    _take(work, 3, None)
    assert _next_chunk(pool, work) == 3
    _take(work, 3, None)
    _take(work, 5, ChunkLogits(None, 1))
    assert sorted(work.texts) == [0, 1, 2, 3, 4, 6, 7]
    with pytest.raises(DeviceError, match=r"3 actors on Ray died with the same chunk.*run this again"):
        _take(work, 3, None)


def test_ray_that_asks_for_no_token_is_refused():
    for version in ("2.51.1", "2.58.0", "unknown"):
        with pytest.raises(ConfigError, match=rf"Ray '{version}' does not ask for a token.*Install Ray 2.59 or later"):
            require_token_version(version)
    for version in ("2.59.0", "2.60.0", "3.0.0.dev0"):
        require_token_version(version)


def test_token_is_readable_by_its_user_alone(tmp_path):
    token = tmp_path / "home" / ".ray" / "auth_token"
    make_token(token)
    text = token.read_text(encoding="ascii")
    assert len(text) == 64
    assert (token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    token.chmod(0o644)  # as Ray writes it
    make_token(token)
    assert (token.stat().st_mode & 0o777, token.read_text(encoding="ascii")) == (0o600, text)


def test_head_that_is_lost_is_told_before_ray_ends_the_process():
    now = time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, and nobody listens
        address = f"127.0.0.1:{free.getsockname()[1]}"
        assert watch_head(address, now) == now  # it was just seen
        assert watch_head(address, now - 10) == now - 10  # it may start again
        with pytest.raises(
            ServiceError, match=rf"head of the Ray cluster at '{address}' has not answered for 1\d s: .*refused.*run this"
        ):
            watch_head(address, now - 16)


def test_a_process_that_uses_ray_already_keeps_its_connection(monkeypatch):
    ray = SimpleNamespace(is_initialized=lambda: True)  # neither `init` nor `shutdown`: they must not be called
    monkeypatch.setattr("finsent.scoring.ray_cluster.require_ray", lambda _: None)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(ConfigError, match=r"connected to a Ray cluster already.*ray\.shutdown\(\)"), ray_cluster(RayConfig()):
        pass


def test_folders_of_killed_clusters_are_swept_and_those_in_use_are_not(tmp_path):
    names = ["finsent-ray-dead", "finsent-ray-held", "finsent-ray-new", "other"]
    for folder in (tmp_path / name for name in names):
        (folder / "session").mkdir(parents=True)
    (tmp_path / "finsent-ray-link").symlink_to(tmp_path / "other")
    with _locked(tmp_path / "finsent-ray-held"):
        for name in names:
            if name != "finsent-ray-new":
                os.utime(tmp_path / name, (0, 0))
        sweep_folders(tmp_path)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [
            "finsent-ray-held",
            "finsent-ray-link",
            "finsent-ray-new",
            "other",
        ]
    os.utime(tmp_path / "finsent-ray-held", (0, 0))
    sweep_folders(tmp_path)
    assert not (tmp_path / "finsent-ray-held").exists()
