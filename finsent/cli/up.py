"""`finsent up`: MLflow, the Prefect server and its workers on one machine, started together and stopped together."""

import atexit
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from finsent.cli.freshness import watch_freshness
from finsent.cli.limits import Orphaned
from finsent.cli.listening import listen
from finsent.cli.lost_runs import worker_name
from finsent.cli.options import LOCAL_PATH, CommandResult, Settings, cli, examples
from finsent.cli.output import key_values, section
from finsent.cli.ownership import SERVERS, end_leftovers, end_processes, find_processes, hold_home
from finsent.cli.probes import (
    answers_at,
    ask_until_answered,
    has_token,
    is_not_stopped,
    lost_runs,
    lost_runs_at_start,
    servers_answer,
)
from finsent.cli.processes import SERVICE_VARIABLE, Service, run_to_end, start_service, stop_services, wait_until
from finsent.cli.server_password import auth_string, make_password, password_path
from finsent.cli.services_file import (
    HEARTBEAT_SECONDS,
    RunningServices,
    give_token,
    is_healthy,
    password_hint,
    services_path,
    write_services,
)
from finsent.cli.supervisor import INTERRUPTS, WORKER_GRACE, Supervised, Surroundings, catch_interrupts, supervise
from finsent.environ import absolute_path
from finsent.errors import InputError, ServiceError
from finsent.files import make_folder, share_with_group
from finsent.logging_setup import without_quieting
from finsent.process_identity import start_time
from finsent.proxies import bypass_proxies
from finsent.registry.own_server import LOGIN_VARIABLE, TOKEN_VARIABLE, with_login
from finsent.registry.relocation import require_own_locations
from finsent.workspace import Workspace, resolve_workspace

GUARDED_BY_UP = (
    *("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_KEY"),
    *("PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED", "PREFECT_SERVER_CSRF_PROTECTION_ENABLED"),
    *("PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS", "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_AUTH"),
    *("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"),
)
"""Variables by which MLflow and Prefect take credentials, or open themselves: `finsent up` refuses to start with them."""
POOLS = {"cpu": 3, "gpu": 7}
"""Work pools and how many flow runs each starts at a time: one of each deployment, so that no scoring waits for a worker. Of the
trainings one works at a time; the others wait for the GPU (flows/gpu.py)."""


@dataclass(frozen=True)
class UpOptions:
    """Where the servers listen and what the workers run."""

    host: str
    mlflow_port: int
    prefect_port: int
    project: Path
    """Folder that holds `prefect.yaml` and `automations.yaml`."""
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    """Served by both servers as proof of whose they are."""
    allow_hosts: tuple[str, ...] = ()
    """Host names, beside the machine's own, that requests may name, such as a proxy's."""

    @property
    def running(self) -> RunningServices:
        """What is known before anything runs; `recorded` has the rest."""
        seen = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - compared, not bound
        seen = f"[{seen}]" if ":" in seen else seen
        return RunningServices(os.getpid(), f"http://{seen}:{self.mlflow_port}", f"http://{seen}:{self.prefect_port}")

    def recorded(self, home: Workspace, services: "Sequence[Supervised]") -> RunningServices:
        """What goes into `services.json`."""
        ids = {one.name: one.service.process.pid for one in services}
        times = {name: (pid, time) for name, pid in ids.items() if (time := start_time(pid)) is not None}
        restarts = {one.name: one.restarts for one in services if one.restarts}
        return replace(self.running, home=str(home.root), token=self.token, processes=times, restarts=restarts)


def find_project(given: Path | None) -> Path:
    """The folder with `prefect.yaml`: the one given, the working folder, or the clone that finsent runs from.

    Raises:
        InputError: none of them has it.
    """
    places = [given] if given else [Path.cwd(), Path(__file__).resolve().parents[2]]
    for place in places:
        if (place / "prefect.yaml").is_file():
            return place.resolve()
    tried = ", ".join(repr(str(place)) for place in places)
    raise InputError(f"no prefect.yaml in {tried}. Run from a clone of finsent, or name its folder with --project.")


def environment(home: Workspace, place: UpOptions, profile: str, config_file: Path | None) -> dict[str, str]:
    """The environment of servers and workers. Makes the home's password on the first start.

    The user's own settings for Prefect and MLflow stay, addresses and state are set here, and what keeps this command's
    console quiet is left out: their logs are for operators.
    """
    chosen = {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # without it the server starts a job runner and seven consumers: ten processes, 2.4 GB
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # leases in memory leak their slot for ever when a run is killed and the server restarts
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_LOGGING_EXTRA_LOGGERS": "finsent",  # its lines show in the UI beside Prefect's
        "PREFECT_LOGGING_FORMATTERS_STANDARD_DATEFMT": "%Y-%m-%d %H:%M:%S",  # a log of weeks, in which Prefect writes hours
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    make_password(home)
    auth = auth_string(home.root)
    own = {
        **chosen,
        **without_quieting(os.environ),
        "PREFECT_HOME": str(home.root / "prefect"),
        "PREFECT_API_URL": place.running.prefect_api,
        "MLFLOW_TRACKING_URI": place.running.mlflow,
        "FINSENT_HOME": str(home.root),
        "FINSENT_TABLES": home.tables_url,
        "FINSENT_PROFILE": profile,
        TOKEN_VARIABLE: place.token,
        LOGIN_VARIABLE: with_login(place.running.mlflow, auth),
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": place.running.prefect,
        "PREFECT_SERVER_UI_API_URL": "/api",  # of the address that the browser came by: localhost, a tunnel, a proxy
        **({"FINSENT_CONFIG": str(absolute_path(str(config_file), "--config"))} if config_file else {}),
    }
    bypass_proxies(own, place.running.mlflow, place.running.prefect)
    return own


_PORT = click.IntRange(1, 65535)


@cli.command(
    "up", epilog=examples("finsent up", "finsent up --profile llama-3.1-8b --config mine.yaml", "finsent up --mlflow-port 5001")
)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="Host name that browsers use for this machine, such as a proxy's. Repeatable.",
)
@click.option("--mlflow-port", type=_PORT, default=5000, show_default=True, metavar="PORT")
@click.option("--prefect-port", type=_PORT, default=4200, show_default=True, metavar="PORT")
@click.option(
    "--project", type=LOCAL_PATH, metavar="DIR", help="Folder that holds prefect.yaml. Default: here, or finsent's clone."
)
@click.pass_obj
def up_command(
    settings: Settings, host: str, allow_hosts: tuple[str, ...], mlflow_port: int, prefect_port: int, project: Path | None
) -> CommandResult:
    """Start MLflow, Prefect, workers and schedules.

    The flows are deployed with their schedules. Ctrl-C stops everything. While it runs, other finsent commands on the same
    home use these servers by themselves; browsers are asked for a password, which is in the home.
    """
    place = UpOptions(host, mlflow_port, prefect_port, find_project(project), allow_hosts=allow_hosts)
    home = _require_own_servers(settings)
    pause = catch_interrupts()
    lock = hold_home(home)  # for the life of this process
    click.echo("starting MLflow and Prefect (the first start prepares their databases) ...", err=True)
    services = bring_up(home, place, environment(home, place, settings.profile, settings.config_file), pause)
    safety = atexit.register(stop_all, home, services)

    def wait() -> None:
        atexit.unregister(safety)
        wait_and_stop(home, place, services, pause)
        os.close(lock)

    running = place.running
    described = {"home": home.root, "mlflow": running.mlflow, "prefect": running.prefect, "prefect_api": running.prefect_api}
    described["password"] = password_path(home.root)
    text = section(
        "finsent is up",
        key_values([("MLflow", running.mlflow), ("Prefect", running.prefect), ("home", home.root), ("logs", home.root / "logs")]),
        f"  {password_hint(home.root)}",
        "  Other finsent commands on this home use these servers by themselves. Schedules: prefect.yaml.",
        "  Ctrl-C stops everything.",
    )
    return CommandResult({**described, "pid": running.pid, "pools": list(POOLS)}, text, afterwards=wait)


def _require_own_servers(settings: Settings) -> Workspace:
    """The home to bring up.

    Raises:
        InputError: servers are set from outside, or overrides are given, which would not reach the workers.
        ConfigError: the configuration is wrong; without this each worker would report it later.
    """
    from finsent.registry.mlflow_errors import public_uri

    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        if os.environ.get(name):
            raise InputError(
                f"{name} is set to {public_uri(os.environ[name])!r}, and `finsent up` starts servers of its own. Unset it; "
                "docs/operations.md says how to work with servers that run elsewhere."
            )
    for name in GUARDED_BY_UP:
        if os.environ.get(name):
            raise InputError(
                f"{name} is set, and `finsent up` guards its servers itself: with the password in 'server_password' of the home, "
                "and names that --allow-host adds (docs/security.md). Unset it."
            )
    if settings.overrides:
        raise InputError(
            f"--set {settings.overrides[0]!r} would not reach the workers. Put it into a file and give that with --config."
        )
    settings.config()
    return resolve_workspace({**os.environ, **({"FINSENT_HOME": str(settings.home_dir)} if settings.home_dir else {})})


def bring_up(
    home: Workspace, place: UpOptions, env: dict[str, str], pause: Callable[[float], None] = time.sleep
) -> "list[Supervised]":
    """Start everything and wait until it answers. On any failure what was started is stopped again.

    Call it with the home's lock held (`hold_home`). `pause` may raise to give up.

    Raises:
        InputError: already up, or a port is taken.
        CheckFailed: the home's store keeps artifacts outside the home.
        ServiceError: something did not start; the message ends with its log.
    """
    end_leftovers(home, lambda line: click.echo(line, err=True), pause)
    require_own_locations(home)
    make_folder(home.artifacts)
    sockets = listen(place.host, {"mlflow": place.mlflow_port, "prefect": place.prefect_port})
    services: list[Supervised] = []

    def start(name: str, command: list[str], responds: Callable[[Supervised], bool], grace: float = 0.0) -> Service:
        own = sockets.get(name, [])
        again = partial(start_service, name, command, env, home, own)
        services.append(Supervised(again(), again, responds, grace, own))
        return services[-1].service

    try:
        addresses = {"mlflow": place.running.mlflow, "prefect": place.running.prefect_api}
        mlflow = start("mlflow", mlflow_command(home, place), answers_at(addresses["mlflow"]))
        prefect = start("prefect", prefect_command(place), answers_at(addresses["prefect"]))

        def await_answer(service: Service) -> None:
            def answers() -> bool:
                for one in (mlflow, prefect):  # the other one too: why wait for one, where that has ended
                    one.require_alive()
                return is_healthy(addresses[service.name], direct=True)

            wait_until(answers, service, pause=pause)

        await_answer(prefect)
        said = provision_server(place, env, pause).splitlines()  # MLflow goes on starting meanwhile
        await_answer(mlflow)
        share_with_group(home.root / "mlflow.db")
        running = place.recorded(home, services)
        ask_until_answered(partial(give_token, running), (mlflow, prefect), pause)
        ended = lost_runs_at_start(running, (mlflow, prefect), pause)
        for line in (*said, *ended):
            click.echo(line, err=True)
        for pool, limit in POOLS.items():
            start(f"worker-{pool}", worker_command(pool, limit), lambda one: is_not_stopped(one.service), WORKER_GRACE)
        write_services(home.root, place.recorded(home, services))
    except BaseException:
        stop_all(home, services)
        raise
    return services


def wait_and_stop(home: Workspace, place: UpOptions, services: "Sequence[Supervised]", pause: Callable[[float], None]) -> None:
    """Keep everything running until Ctrl-C, SIGTERM or a hang-up, then stop it."""
    since = datetime.now(UTC)
    failed: list[str] = []
    orphaned: dict[str, Orphaned] = {}
    around = Surroundings(
        home,
        changed=lambda: write_services(home.root, place.recorded(home, services)),
        answered=lambda: has_token(place.recorded(home, services)),
        look=lambda: [
            *lost_runs(place.recorded(home, services), services, failed, orphaned),
            *(watch_freshness(place.running.prefect_api, auth_string(home.root), since) if servers_answer(services) else ()),
        ],
    )
    try:
        supervise(services, around, pause)
    except KeyboardInterrupt:
        click.echo("stopping the workers, Prefect and MLflow ...", err=True)
    finally:
        stop_all(home, services)
        click.echo("stopped.", err=True)


def stop_all(home: Workspace, services: "Sequence[Supervised]") -> None:
    """Stop everything, ignoring further interrupts."""
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    services_path(home.root).unlink(missing_ok=True)
    running = [one.service for one in services if one.retry_at is None]
    stop_services([one for one in running if one.name not in SERVERS], follow=WORKER_GRACE)  # runs report to the servers
    stop_services(running)
    end_processes(find_processes(home.root))
    for one in services:
        for own in one.sockets:
            own.close()


def mlflow_command(home: Workspace, place: UpOptions) -> list[str]:
    """The MLflow server's command line."""
    # Artifacts are written by the clients, straight into the home: so the same runs open with and without the server
    store = ["--store", f"sqlite:///{home.root / 'mlflow.db'}", "--artifacts", str(home.artifacts)]
    return [*_guarded("mlflow", place), *store]


def prefect_command(place: UpOptions) -> list[str]:
    """The Prefect server's command line."""
    return _guarded("prefect", place)


def _guarded(server: str, place: UpOptions) -> list[str]:
    names = (part for name in place.allow_hosts for part in ("--allow-host", name))
    return ["finsent.cli.guarded_server", server, "--host", place.host, *names]


def worker_command(pool: str, limit: int) -> list[str]:
    """A worker's command line; `limit` is how many flow runs it starts at a time."""
    return ["prefect", "worker", "start", "--pool", pool, "--type", "process", "--limit", str(limit), "--name", worker_name(pool)]


def provision_server(place: UpOptions, env: dict[str, str], pause: Callable[[float], None] = time.sleep) -> str:
    """Put on the server what is missing or changed in the files; what was put there and what was left as it is, line by line."""
    command = [sys.executable, "-m", "finsent.cli.provision", str(place.project / "automations.yaml"), *POOLS]
    code, said = run_to_end(command, {**env, SERVICE_VARIABLE: "provision"}, place.project, pause)
    if code:
        end = "\n".join(said.splitlines()[-15:])
        raise ServiceError(f"{command[2]} failed on {place.running.prefect_api}:\n{end}")
    return said
