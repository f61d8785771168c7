"""A test waits for what must come; it does not pause and hope that it has come by then."""

# ruff: noqa: E501 - the names of tests are not cut

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import hypothesis

from tests.ports import free_port

TESTS = Path(__file__).resolve().parents[1]

LOOKS = "looks again and again, with a generous bound, at what tells nobody"
STANDS_IN = "stands in for something slow, which the test ends or outlives"
LONGER_IS_FINE = "what must be over is over after a longer pause, too"
ALLOWED = {
    "charts/admission.py::_wait_until_ready": LOOKS,
    "charts/scratch.py::eventually": LOOKS,
    "fixtures/scratch/stub.py::wait": STANDS_IN,
    "inference/conftest.py::until": LOOKS,
    "inference/conftest.py::until_seen": LOOKS,
    "inference/batching/test_batcher.py::run": STANDS_IN,
    "inference/batching/test_batcher.py::test_an_idle_instance_waits_while_another_runs": (
        "nothing may happen meanwhile; a busy machine does less, and passes"
    ),
    "kit/http/test_connections.py::until": LOOKS,
    "kit/http/test_protocol.py::until": LOOKS,
    "kit/http/test_early_refusals.py::until": LOOKS,
    "kit/http/test_early_refusals.py::test_what_is_sent_while_a_refusal_waits_is_answered_next": (
        "the answers are the same whether the requests come before or after the end of the pause"
    ),
    "proxy/browser.py::until": LOOKS,
    "proxy/browser.py::_port": LOOKS,
    "proxy/conftest.py::start": LOOKS,
    "proxy/conftest.py::eventually": LOOKS,
    "proxy/faults.py::toxic.downward": STANDS_IN,
    "proxy/processes.py::_ready": LOOKS,
    "proxy/policy/test_authentication.py::test_an_issuers_keys_are_read_to_their_end_however_they_arrive.in_parts": (
        STANDS_IN
    ),
    "proxy/predictions/test_ensembles.py::slow": STANDS_IN,
    "proxy/gateway/test_passthrough.py::test_who_hangs_up_frees_the_backend.hang": STANDS_IN,
    "proxy/gateway/test_passthrough.py::test_pipelined_requests_are_answered_in_order.which": STANDS_IN,
    "proxy/jobs/test_jobs.py::test_a_job_past_its_deadline_expires": LONGER_IS_FINE,
    "proxy/jobs/test_jobs.py::test_a_worker_that_stops_hands_its_jobs_back_uncounted.hang": STANDS_IN,
    "proxy/test_service.py::test_sigterm_under_load_fails_no_request": LOOKS,
    "proxy/test_service.py::test_no_job_is_lost_and_none_done_twice_when_workers_are_killed": LOOKS,
    "unzip/commands/test_commands.py::test_peak_memory": LOOKS,
    "waits.py::until": LOOKS,
    "waits.py::until_async": LOOKS,
}


def pauses(tree: ast.AST, names: tuple[str, ...] = ()) -> Iterator[str]:
    """The functions, with those around them, that call time.sleep or asyncio.sleep of not 0."""
    for node in ast.iter_child_nodes(tree):
        inner = names
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = (*names, node.name)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "asyncio.sleep"}:
            first = node.args[0] if node.args else None
            if not (isinstance(first, ast.Constant) and first.value == 0):
                yield ".".join(names)
        yield from pauses(node, inner)


def found() -> set[str]:
    """Every pause in the tests that need no cluster."""
    return {
        f"{path.relative_to(TESTS).as_posix()}::{name}"
        for path in TESTS.rglob("*.py")
        if "e2e" not in path.parts and not path.stem.endswith("_live")
        for name in pauses(ast.parse(path.read_text(encoding="utf-8")))
    }


def test_nobody_pauses_without_a_reason() -> None:
    new = sorted(found() - set(ALLOWED))
    assert new == [], "wait for a condition (tests/waits.py) or hold a gate, or give a reason here"


def test_no_reason_outlives_its_pause() -> None:
    assert sorted(set(ALLOWED) - found()) == []


def test_a_pause_is_found_and_giving_way_is_none() -> None:
    source = "async def a():\n    def b():\n        time.sleep(0.1)\n    await asyncio.sleep(0)\n"
    assert list(pauses(ast.parse(source))) == ["a.b"]


def test_no_example_of_hypothesis_has_a_deadline() -> None:
    """Its 200 ms fail on a machine that is busy; tests/conftest.py loads a profile without."""
    assert hypothesis.settings().deadline is None


def test_ports_are_not_those_that_connections_take() -> None:
    ports = {free_port() for _ in range(20)}
    assert len(ports) == 20
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(port < first for port in ports)
