"""What libraries may print: nothing on a user's terminal, from child processes neither; everything in logs of servers."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finsent import logging_setup
from finsent.logging_setup import (
    IMPATIENT_ENVIRONMENT,
    QUIET_ENVIRONMENT,
    QUIETED,
    configure_child_logging,
    prepare_environment,
    track,
    without_quieting,
)

NOISE = {
    "Dynamo detected a call to a `functools.lru_cache`-wrapped function": "torch, where layers are compiled",
    "LOAD REPORT": "transformers, since the head comes from the adapter",
    "Failed to load CPU gemm_4bit_forward": "bitsandbytes at import, on processors with AVX512-BF16",
    "leaked semaphore objects": "multiprocessing's tracker, of a worker that was terminated",
}

# A model worker as finsent.scoring starts them, which does what each line of NOISE is about
CHATTY = """
import functools, logging, multiprocessing, sys
from pathlib import Path

def work(connection, folder):
    from finsent.logging_setup import configure_child_logging
    configure_child_logging()
    lock = multiprocessing.RLock()  # as tqdm makes
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaModel
    cached = functools.lru_cache(lambda: 2)
    torch.compile(lambda x: x + cached(), backend="eager")(torch.ones(2))
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaModel(config).save_pretrained(folder)
    LlamaForSequenceClassification.from_pretrained(folder)
    logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load CPU gemm_4bit_forward from kernels-community")
    logging.getLogger("torch._inductor.utils").warning("Not enough SMs to use max_autotune_gemm mode")
    logging.getLogger("finsent.scoring").info("opening the model")
    connection.send("done")
    connection.recv()

if __name__ == "__main__":
    from finsent.logging_setup import configure_logging, prepare_environment
    verbose = sys.argv[2] == "verbose"
    prepare_environment(verbose=verbose)
    configure_logging(verbose=verbose)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=work, args=(theirs, sys.argv[1]))
    worker.start()
    print(ours.recv())
    worker.terminate()
    worker.join()
"""


def chatter(mode: str, folder: Path) -> str:
    script = folder / "chatty.py"
    script.write_text(CHATTY, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in {*QUIET_ENVIRONMENT, QUIETED}}
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "model"), mode],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    return done.stderr


def test_libraries_are_silent_in_child_processes_too(tmp_path: Path) -> None:
    assert chatter("quiet", tmp_path) == ""


@pytest.mark.long
def test_verbose_shows_what_is_hushed(tmp_path: Path) -> None:
    shown = chatter("verbose", tmp_path)
    assert [line for line in NOISE if line not in shown] == []
    assert "max_autotune_gemm" in shown


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment in which nothing is hushed yet; put back afterwards."""
    before = dict(os.environ)
    for name in (*QUIET_ENVIRONMENT, *IMPATIENT_ENVIRONMENT, QUIETED):
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("clean")
def test_what_the_user_has_set_stays_and_reaches_servers() -> None:
    os.environ["TRANSFORMERS_VERBOSITY"] = "info"
    for _ in range(2):  # as a command of finsent that another one starts
        prepare_environment(verbose=False)
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    assert os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] == "CRITICAL"
    servers = without_quieting(os.environ)
    assert {*QUIET_ENVIRONMENT, QUIETED} & set(servers) == {"TRANSFORMERS_VERBOSITY"}
    assert servers["DO_NOT_TRACK"] == "1"
    assert len(servers) == len(os.environ) - len(QUIET_ENVIRONMENT) - len(IMPATIENT_ENVIRONMENT)


@pytest.mark.usefixtures("clean")
def test_child_processes_take_no_module_from_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise ImportError('a module of the working folder')")
    prepare_environment(verbose=False)
    for start in (["-c", "import random"], ["-m", "random"]):
        ended = subprocess.run([sys.executable, *start], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.usefixtures("clean")
def test_verbose_hushes_nothing() -> None:
    prepare_environment(verbose=True)
    assert not QUIET_ENVIRONMENT.keys() & set(os.environ)
    assert not {*IMPATIENT_ENVIRONMENT, QUIETED} & set(without_quieting(os.environ))


@pytest.mark.usefixtures("clean")
def test_a_process_that_no_quiet_command_started_keeps_its_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging_setup, "configure_logging", lambda **_: pytest.fail("it was configured"))
    handlers = list(logging.getLogger().handlers)
    configure_child_logging()
    assert logging.getLogger().handlers == handlers


def test_a_progress_bar_yields_everything_and_is_silent_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(5), description="working")) == [0, 1, 2, 3, 4]
    out, err = capfd.readouterr()
    assert out == err == ""
