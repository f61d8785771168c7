"""Runs a function in a process of its own, forked from one that has no threads.

A fork of the test's own process copies locks that its threads hold, gRPC's for example, where tests
of other services ran in it before; such a child may crash.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # pytest imports tests without it, and a new process cannot
    sys.path.append(str(ROOT))
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.release.conftest"])


def started(function: Callable[..., int], *arguments: Any) -> BaseProcess:
    """A process that runs a function of a module with this process's folder and variables.

    It ends with what the function returns; ``join`` it and read ``exitcode``.
    """
    process = _CONTEXT.Process(
        target=_run, args=(dict(os.environ), Path.cwd(), function, arguments)
    )
    process.start()
    return process


def exit_code(function: Callable[..., int], *arguments: Any) -> int:
    """How such a process ended."""
    process = started(function, *arguments)
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _run(
    environment: Mapping[str, str],
    folder: Path,
    function: Callable[..., int],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    os._exit(function(*arguments))
