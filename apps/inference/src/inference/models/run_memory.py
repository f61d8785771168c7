"""A bound on the memory of a model's runs, which follows from what is asked, not from its bytes.

Two inputs without bytes, of shape [65536, 0] and [0, 65536], multiply to 17 GB, and four numbers
ask a Resize for any picture. ONNX Runtime keeps all tensors of a session in an arena. Each session
gets an arena of its own here, which takes its weights and a bounded amount beside them: a run
that needs more fails where it asks for it, before the memory is touched. Texts are the exception:
the arena holds their heads of 32 bytes, and characters past 15 lie beside it.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]

from kit.memory.cgroup import memory_limit

SHARE = 4
"""What of the container's memory the runs of one model may take: one part in so many."""
SIZES_TRIED = 8
_REFUSED = re.compile(
    r"Available memory of (?P<free>\d+) is smaller than requested bytes of (?P<asked>\d+)|"
    r"Failed to allocate memory for requested buffer of size (?P<size>\d+)|std::bad_alloc"
)
"""How ONNX Runtime says that an arena is full, and that the system has no more memory."""
_MORE_THAN_THERE_IS = 1 << 50
"""Numbers that no system has the memory for: asking for them is always refused."""
_FILL = (
    b'\x08\t\x12\x00:?\n\x17\n\x01s\x12\x01y"\x0fConstantOfShape\x12\x01gZ\x0f\n\x01s\x12\n\n'
    b"\x08\x08\x07\x12\x04\n\x02\x08\x01b\x10\n\x01y\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01n"
    b"B\x04\n\x00\x10\x11"
)
"""An ONNX model that makes ``s`` numbers (ConstantOfShape): it asks an arena what it has left."""
_registering = threading.Lock()
"""Held from when an arena is registered until the sessions have it: the process has one name."""


def run_memory(setting: int = 0) -> int:
    """Bytes that the runs of one model may take beside its weights.

    0 takes a quarter of the container's memory, or of the machine's where it has no limit.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return setting or (memory_limit() or machine) // SHARE


def refused(error: Exception) -> bool:
    """Whether ONNX Runtime failed because it got no memory for a tensor."""
    return _REFUSED.search(str(error)) is not None


def asked(error: Exception) -> int:
    """The bytes that were refused, or 0 where the error does not say."""
    found = _REFUSED.search(str(error))
    return int(found["asked"] or found["size"] or 0) if found else 0


class Arena:
    """The memory of one session. Use it from any thread."""

    def __init__(self, probe: ort.InferenceSession, bound: int) -> None:
        self._probe = probe
        self._bound = bound
        self.shrink()
        self._unused = self.free()

    def free(self) -> int:
        """Bytes that may still be had from the system; 0 where there is more than it may have."""
        try:
            self._probe.run(None, {"s": np.array([_MORE_THAN_THERE_IS])})
        except Exception as error:
            found = _REFUSED.search(str(error))
            if found is None:
                raise
            return int(found["free"] or 0)
        raise AssertionError("an arena gave more memory than any system has")

    def shrink(self) -> None:
        """Give back what no tensor is in. What is left has no gaps that are too small to use."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._probe.run(None, {"s": np.array([0])}, options)

    def never_has(self, size: int) -> bool:
        """Whether ``size`` bytes are more than there are with no run under way."""
        return size > self._unused

    def in_use(self) -> bool:
        """Whether runs or answers under way hold a part that matters."""
        self.shrink()
        return self.free() < self._unused - self._bound // 16


def open_session(
    model: Path, options: ort.SessionOptions, bound: int
) -> tuple[ort.InferenceSession, Arena]:
    """A session whose runs take at most about ``bound`` bytes, and its arena.

    Its weights count too, and how much they take is known once they are there (ONNX Runtime packs
    and converts them): where the guess by the files' sizes was too low it is loaded again.
    Raises what ONNX Runtime raises where it cannot load the model.
    """
    options.add_session_config_entry("session.use_env_allocators", "1")
    # it would take what the first run took in each later run whose inputs have the same shapes
    options.enable_mem_pattern = False
    size = bound + sum(file.stat().st_size for file in model.parent.iterdir() if file.is_file())
    for left in reversed(range(SIZES_TRIED)):
        try:
            session, arena = _open(model, options, size, bound)
        except Exception as error:
            if not left or not refused(error):
                raise
            size *= 2
            continue
        if (free := arena.free()) >= bound or not left:
            return session, arena
        del session, arena  # before the next one takes as much
        size = size + bound - free if free else 2 * size
    raise AssertionError("the last try returns or raises")


def _open(
    model: Path, options: ort.SessionOptions, size: int, bound: int
) -> tuple[ort.InferenceSession, Arena]:
    quiet = ort.SessionOptions()
    quiet.log_severity_level = 4
    quiet.intra_op_num_threads = 1
    quiet.add_session_config_entry("session.use_env_allocators", "1")
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    as_asked = 1  # and not doubled each time, ArenaExtendStrategy::kSameAsRequested
    with _registering:
        ort.create_and_register_allocator(
            memory, ort.OrtArenaCfg({"max_mem": size, "arena_extend_strategy": as_asked})
        )
        cpu = ["CPUExecutionProvider"]
        session = ort.InferenceSession(str(model), options, providers=cpu)
        probe = ort.InferenceSession(_FILL, quiet, providers=cpu)
    return session, Arena(probe, bound)
