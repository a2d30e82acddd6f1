"""Runs the command line in this process, as a shell would see it."""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from finsent.cli.main import run


@dataclass(frozen=True)
class Said:
    """What one invocation left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one JSON object on stdout."""
        lines = self.out.splitlines()
        assert len(lines) == 1, f"stdout is not one JSON object: {self.out!r}"
        return json.loads(lines[0])


Finsent = Callable[..., Said]


@pytest.fixture
def finsent(capsys: pytest.CaptureFixture[str]) -> Iterator[Finsent]:
    """`finsent("status", "--json")`; environment, logging and warning filters are put back afterwards."""
    environment, root = dict(os.environ), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    named = {name: logging.getLogger(name).level for name in list(logging.root.manager.loggerDict)}

    def invoke(*arguments: object) -> Said:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    with warnings.catch_warnings():
        yield invoke
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in named.items():
        if logging.getLogger(name).level != before:  # setting a level makes every logger forget what it cached
            logging.getLogger(name).setLevel(before)
    os.environ.clear()
    os.environ.update(environment)
