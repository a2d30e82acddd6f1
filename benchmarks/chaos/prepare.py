"""Before the start: a small disk, a configuration, short schedules, a database server, and a first champion."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any, Final

import yaml

from chaos.system import Place
from finsent.data.sample import sample_sources

PROJECT: Final = Path(__file__).parents[2]
ANCHOR: Final = "2026-01-01T00:00:{:02d}+00:00"
EVERY: Final = {"score": (1, 0), "monitor": (2, 25), "ingest": (3, 40), "retrain": (4, 10), "maintain": (6, 55)}
"""Periods of scoring between two runs of each scheduled deployment, and the second at which it starts."""
HEARD_WITHIN: Final = 150
"""Seconds without a heartbeat after which a flow run counts as lost."""
CLUSTER: Final = "/usr/lib/postgresql"


def make_place(folder: Path, period: float, database: str, first_port: int) -> Place:
    """Folders of a run; the folder must be empty, since it is filled and parts of it are removed again.

    Raises:
        SystemExit: it is not.
    """
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{str(folder)!r} is not empty. Name a new folder.")
    ports = _free_ports(first_port, 3)
    if database == "postgres":
        database = f"postgresql+asyncpg://finsent:{secrets.token_hex(12)}@127.0.0.1:{ports[2]}/prefect"
    place = Place(folder, secrets.token_hex(12), ports[0], ports[1], period, database)
    for path in (place.folder, place.incoming, place.labelled, place.project, folder / "disk", folder / "tmp"):
        path.mkdir(parents=True, exist_ok=True)
    _write_config(place)
    _write_project(place)
    return place


def _free_ports(first: int, count: int) -> list[int]:
    found = []
    for port in range(first, first + 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise SystemExit(f"no {count} free ports from {first} on")


def _write_config(place: Place) -> None:
    """A gate that a version passes if it is better at all than baselines and champion: how good it is plays no part here."""
    lenient = dict.fromkeys(("min_accuracy", "min_macro_f1", "min_class_f1"), 0.0)
    lenient |= dict.fromkeys(("macro_f1_margin", "class_margin", "slice_margin", "max_ece", "max_logit_difference"), 1.0)
    lenient |= dict.fromkeys(("max_flip_rate", "max_typo_flip_rate", "max_negation_failures", "max_swap_failures"), 1.0)
    config: dict[str, Any] = {
        "data": {"sources": [{"uri": str(place.labelled), "name": "desk"}]},
        "gate": {**lenient, "alpha": 0.49, "min_slice_rows": 30, "bootstrap_resamples": 100},
        "evaluation": {"robustness_rows": 60, "latency_texts": 5},
        "scoring": {"chunk_rows": 50, "settle_seconds": 3.0, "sources": [{"uri": str(place.incoming)}]},
        "monitor": {"cooldown_hours": 0.0, "min_new_labels": 60},
    }
    place.config.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _write_project(place: Place) -> None:
    """The shipped deployments and automations, with schedules of seconds.

    A heartbeat cannot come more often than every 30 s (Prefect's own limit), so the automation that waits for it is shortened
    less, to what is longer than a server is away.
    """
    project = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
    project.pop("definitions", None)  # anchors, which are written out here
    for deployment in project["deployments"]:
        for schedule in deployment.get("schedules", ()):
            times, second = EVERY[deployment["name"]]
            schedule.pop("cron")
            schedule |= {"interval": round(times * place.period), "anchor_date": ANCHOR.format(second)}
    (place.project / "prefect.yaml").write_text(yaml.dump(project, Dumper=_Plain, sort_keys=False), encoding="utf-8")
    automations = yaml.safe_load((PROJECT / "automations.yaml").read_text(encoding="utf-8"))
    automations["automations"][0]["trigger"]["within"] = HEARD_WITHIN
    (place.project / "automations.yaml").write_text(yaml.safe_dump(automations, sort_keys=False), encoding="utf-8")


class _Plain(yaml.SafeDumper):
    """Without anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        """Write every part out."""
        return True


def labelled_rows(count: int, seed: int) -> list[tuple[str, str]]:
    """New labelled tweets from the sample's grammar."""
    from finsent.data.sample.generate import compose
    from finsent.data.sample.grammar import TICKERS

    rng = Random(seed)
    return [compose(rng, TICKERS) for _ in range(count)]


def mount_disk(place: Place, megabytes: int = 1500) -> str:
    """Put the workspace on a small file system of its own, so that it can be filled; returns how, or why not."""
    disk, image = place.folder / "disk", place.folder / "disk.img"
    if os.geteuid() == 0 and shutil.which("mkfs.ext4"):
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], capture_output=True, check=False)
        if made.returncode == 0:
            done = subprocess.run(["mount", "-o", "loop", str(image), str(disk)], capture_output=True, check=False)
            if done.returncode == 0:
                return f"ext4 of {megabytes} MB on a loop device"
        image.unlink(missing_ok=True)
    if os.geteuid() == 0:
        options = ["-t", "tmpfs", "-o", f"size={megabytes}m"]
        if subprocess.run(["mount", *options, "tmpfs", str(disk)], capture_output=True, check=False).returncode == 0:
            return f"tmpfs of {megabytes} MB"
    return ""


def unmount_disk(place: Place) -> None:
    """Take the file system away again."""
    disk = place.folder / "disk"
    if disk.is_mount():
        for options in ([], ["-l"]):
            if subprocess.run(["umount", *options, str(disk)], capture_output=True, check=False).returncode == 0:
                break


def first_champion(place: Place) -> None:
    """Ingest the first labelled file, train, evaluate, promote and approve: version 1 is champion.

    Raises:
        SystemExit: it did not work.
    """
    source = sample_sources(1)[0]
    shutil.copy(source.uri, place.labelled / Path(source.uri).name)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("champion.py")), str(place.config), str(place.home)],
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        raise SystemExit(f"no first champion: {done.stdout[-500:]}{done.stderr[-3000:]}")


def start_postgres(place: Place) -> Path:
    """A Postgres server of its own in the folder, on loopback, with a password; returns the folder of its programs.

    Raises:
        SystemExit: there are no programs, or it does not start.
    """
    found = sorted(Path(CLUSTER).glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        raise SystemExit("no initdb on the path or under /usr/lib/postgresql: install Debian's package `postgresql`")
    programs, data = Path(initdb).resolve().parent, place.folder / "postgres"
    data.mkdir()
    secret = place.folder / "tmp" / "postgres-password"
    secret.write_text(place.database.split(":")[2].split("@")[0], encoding="utf-8")
    if os.geteuid() == 0:  # Postgres refuses to run as root
        for path in (data, secret):
            shutil.chown(path, "postgres", "postgres")
        for path in [place.folder, place.folder / "tmp"]:
            path.chmod(0o755)
    log = data / "server.log"
    run_as_postgres(
        [programs / "initdb", "-D", data / "data", "-U", "finsent", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8"]
    )
    port = place.database.rpartition(":")[2].split("/")[0]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {data} -c max_connections=60"
    (data / "options").write_text(options, encoding="utf-8")
    run_as_postgres([programs / "pg_ctl", "-D", data / "data", "-w", "-l", log, "-o", options, "start"])
    environment = {**os.environ, "PGPASSWORD": secret.read_text(encoding="utf-8")}
    create = [str(programs / "createdb"), "-h", "127.0.0.1", "-p", port, "-U", "finsent", "prefect"]
    subprocess.run(create, env=environment, check=True, capture_output=True)
    secret.unlink()
    return programs


def run_as_postgres(arguments: list[Any], *, check: bool = True) -> None:
    """Run one of Postgres's programs, as its own user where this one is root.

    Raises:
        SystemExit: it failed.
    """
    prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*prefix, *map(str, arguments)], capture_output=True, text=True, check=False, cwd="/", stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        raise SystemExit(f"{Path(str(arguments[0])).name} failed: {done.stdout[-500:]}{done.stderr[-1500:]}")


def stop_postgres(place: Place, programs: Path, mode: str = "fast") -> None:
    """Stop the database server; `immediate` as a power cut does."""
    run_as_postgres([programs / "pg_ctl", "-D", place.folder / "postgres" / "data", "-m", mode, "-w", "stop"], check=False)


def restart_postgres(place: Place, programs: Path) -> None:
    """Start it again after `stop_postgres`."""
    data = place.folder / "postgres"
    options = (data / "options").read_text(encoding="utf-8")
    run_as_postgres([programs / "pg_ctl", "-D", data / "data", "-w", "-l", data / "server.log", "-o", options, "start"])
