"""From a zip in S3 to its files in S3: ours and the rivals, side by side.

    uv run python -m bench.unzip [--scale 0.1] [--rounds 5] [--patience 30]
                                 [--case NAME]... [--way NAME]...
    uv run python -m bench.unzip --memory

S3 is versitygw on a memory file system; every way runs as a process of its own, rounds
interleaved, medians and spread reported. `ours` is `unzip run`: ledger, both passes, manifest.
`--scale 1` are the sizes of the goals. A rival that used up its patience in a case is left out
of the further rounds of it (the table says how many it had). Results go to
bench/results/unzip.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import packages
from tests.s3 import S3Server, serve_s3

BUCKET = "archives"
RESULTS = Path(__file__).parents[1] / "results"
RIVALS = ("lambda", "stream-unzip", "smart_open", "bsdtar+s5cmd", "unzip+s5cmd", "s5cmd alone")
# In every round, however long they take; the others until they have used up the patience.
STEADY = ("ours", "bsdtar+s5cmd", "s5cmd alone")
# By their paths: an environment of ours has an `unzip` of its own.
PACKAGES = {"bsdtar": "libarchive-tools", "/usr/bin/unzip": "unzip"}
REQUIREMENTS = ("stream-unzip>=0.0.99", "smart-open[s3]>=7", "s5cmd>=0.2", "boto3>=1.40")
_WORDS = [f"{n:x}{n * n:x}" for n in range(300, 2000)]


@dataclass(frozen=True)
class Case:
    """``count`` members of ``size`` bytes at scale 1; ``scales`` says which of the two shrinks."""

    name: str
    count: int
    size: int
    scales: str
    method: int = zipfile.ZIP_DEFLATED
    text: bool = True

    def at(self, scale: float) -> tuple[int, int]:
        if self.scales == "count":
            return max(1, round(self.count * scale)), self.size
        return self.count, max(1, round(self.size * scale))


CASES = (
    Case("10,000 x 10 KB", 10_000, 10_000, "count"),
    Case("1,500 x 150 KB", 1_500, 150_000, "count", text=False),
    Case("one 2 GB text", 1, 2 << 30, "size"),
    Case("1 GB stored", 1, 1 << 30, "size", method=zipfile.ZIP_STORED, text=False),
    Case("ZIP64, 70,000 entries", 70_000, 200, "count"),
)


def _text(size: int, rng: random.Random) -> bytes:
    line = " ".join(rng.choices(_WORDS, k=1 + size // 8))
    return line.encode()[:size].ljust(size, b".")


def _big(size: int, text: bool, rng: random.Random) -> Iterator[bytes]:
    block = 4 << 20
    pool = [_text(block, rng) if text else rng.randbytes(block) for _ in range(4)]
    left = size
    while left:
        piece = pool[rng.randrange(4)][: min(block, left)]
        left -= len(piece)
        yield piece


def make(case: Case, scale: float, path: Path) -> tuple[int, int]:
    """Write the archive; its number of files and bytes."""
    rng = random.Random(case.name)
    count, size = case.at(scale)
    with zipfile.ZipFile(path, "w", case.method, compresslevel=6) as archive:
        for n in range(count):
            info = zipfile.ZipInfo(f"d{n % 100:02}/{n:06}.{'txt' if case.text else 'jpg'}")
            info.compress_type = case.method
            with archive.open(info, "w", force_zip64=size > 1 << 30) as member:
                if size > 8 << 20:
                    for piece in _big(size, case.text, rng):
                        member.write(piece)
                else:
                    member.write(_text(size, rng) if case.text else rng.randbytes(size))
    return count, count * size


@dataclass
class Run:
    """One way once: seconds of wall clock and of CPU, MiB of the largest process."""

    seconds: float
    cpu: float
    memory: float


def measure(command: list[str], environment: dict[str, str], log: Path) -> Run:
    """Run a command; time until its end, CPU of it and its children, memory of the largest.

    Memory is VmHWM, sampled: ru_maxrss also counts what a child shared with us before its exec.
    """
    peak = 0
    with log.open("ab") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        ended = threading.Event()

        def sample() -> None:
            nonlocal peak
            while not ended.wait(0.02):
                peak = max(peak, _largest(process.pid))

        sampler = threading.Thread(target=sample)
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        ended.set()
        sampler.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[:4]} failed: {log.read_text()[-2000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, peak / 1024)


def _largest(session_id: int) -> int:
    """Peak KiB so far of the largest process of a session."""
    largest = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session_id:
                continue
            found = re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())
        except OSError:
            continue  # it has ended
        largest = max(largest, int(found.group(1)) if found else 0)
    return largest


def rivals_python() -> str:
    """An environment with the rivals' libraries, made once."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "slipway" / "bench-unzip"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "-q", str(folder)], check=True)
        subprocess.run(["uv", "pip", "install", "-q", "-p", str(python), *REQUIREMENTS], check=True)
    return str(python)


class Bench:
    """The server, the archives and the scratch space of one session."""

    def __init__(self, place: Path, server: S3Server) -> None:
        self.place = place
        self.server = server
        self.log = place / "log"
        # Every way runs from compiled bytecode, as images have it, wherever this environment
        # keeps or forbids it.
        self.environment = os.environ | server.environment() | {
            "S3_ENDPOINT_URL": server.url,
            "UNZIP_BUCKET": BUCKET,
            "PYTHONPYCACHEPREFIX": str(place / "bytecode"),
        }  # fmt: skip
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.rivals = rivals_python()

    def prepare(self, case: Case, scale: float, user: str) -> tuple[str, int, int]:
        """Put a case's archive where all ways find it, and its files for the ceiling."""
        folder = self.server.folder / BUCKET / user
        folder.mkdir(parents=True)
        files, size = make(case, scale, self.place / "archive.zip")
        extracted = self.place / "extracted" / user
        extracted.mkdir(parents=True)
        subprocess.run(
            ["bsdtar", "-xf", str(self.place / "archive.zip"), "-C", str(extracted)], check=True
        )
        self.put(f"{user}/result.zip", self.place / "archive.zip")
        return user, files, size

    def warm(self, ways: Sequence[str]) -> None:
        """Compile what each way imports, by one small archive."""
        case = replace(CASES[0], count=1)
        user, files, _ = self.prepare(case, 1, user="warm")
        for way in ways:
            self.once(way, user, files)

    def put(self, key: str, path: Path) -> None:
        """Move a file into S3, the S3 way: an object without an ETag could not be pinned."""
        import boto3

        client: Any = boto3.client("s3", endpoint_url=self.server.url, **_credentials(self.server))
        client.upload_file(str(path), BUCKET, key)
        path.unlink()

    def once(self, way: str, user: str, files: int) -> Run:
        """One way over one archive, from an empty target; its files are counted and removed."""
        if way == "ours":
            prefix = f"{user}/result/"
            command = [sys.executable, "-c", "from unzip.cli import main; main()", "run"]
            environment = self.environment | {"UNZIP_PREFIX": f"{user}/"}
        else:
            prefix = f"out-{user}/"
            script = str(Path(__file__).parent / "rivals.py")
            key = f"{user}/result.zip"
            command = [self.rivals, script, way, BUCKET, key, prefix, str(self.place)]
            environment = self.environment
        result = measure(command, environment, self.log)
        target = self.server.folder / BUCKET / prefix
        there = sum(path.is_file() for path in target.rglob("*")) - (way == "ours")
        if there != files:
            raise RuntimeError(f"{way}: {there} of {files} files arrived")
        shutil.rmtree(target)
        shutil.rmtree(self.server.folder / BUCKET / ".slipway", ignore_errors=True)
        return result


def _credentials(server: S3Server) -> dict[str, str]:
    environment = server.environment()
    return {
        "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
        "region_name": environment["AWS_REGION"],
    }


def _row(runs: list[Run], files: int, size: int) -> dict[str, float]:
    seconds = statistics.median(run.seconds for run in runs)
    return {
        "rounds": len(runs),
        "seconds": round(seconds, 3),
        "fastest": round(min(run.seconds for run in runs), 3),
        "slowest": round(max(run.seconds for run in runs), 3),
        "mb_per_second": round(size / seconds / 1e6, 1),
        "files_per_second": round(files / seconds, 1),
        "cpu_seconds_per_gb": round(statistics.median(r.cpu for r in runs) / size * 1e9, 2),
        "peak_mib": round(max(run.memory for run in runs), 1),
    }


def compare(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each case's name and its table, as soon as it is measured."""
    ways = ("ours", *(arguments.way or RIVALS))
    cases = [case for case in CASES if not arguments.case or case.name in arguments.case]
    with session() as bench:
        bench.warm(ways)
        for case in cases:
            load = os.getloadavg()[0]
            user, files, size = bench.prepare(
                case, arguments.scale, user=f"case-{CASES.index(case)}"
            )
            runs: dict[str, list[Run]] = {way: [] for way in ways}
            for number in range(arguments.rounds):
                order = ways[number % len(ways) :] + ways[: number % len(ways)]
                for way in order:
                    spent = sum(run.seconds for run in runs[way])
                    if way not in STEADY and spent > arguments.patience:
                        continue
                    runs[way].append(bench.once(way, user, files))
                    print(f"{case.name}, round {number + 1}, {way}: {runs[way][-1]}", flush=True)
            shutil.rmtree(bench.place / "extracted" / user)
            shutil.rmtree(bench.server.folder / BUCKET / user)
            rows = {way: _row(runs[way], files, size) for way in ways}
            yield (
                case.name,
                {
                    "files": files,
                    "bytes": size,
                    "scale": arguments.scale,
                    "rounds": arguments.rounds,
                    "load": round(load, 1),
                    "ways": rows,
                },
            )


def repetitive(size: int, path: Path) -> None:
    """An archive with one text of about ``size`` bytes, made in seconds: one block, many times."""
    from isal import isal_zlib

    block = b"".join(b"%032d a line of some text that deflates well\n" % n for n in range(60_000))
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = deflater.compress(block) + deflater.flush(zlib.Z_FULL_FLUSH)
    count = max(1, size // len(block))
    crc = 0
    for _ in range(count):
        crc = isal_zlib.crc32(block, crc)
    total, compressed = count * len(block), count * len(packed) + 2
    name = b"big.txt"
    wide = struct.pack("<HHQQ", 1, 16, total, compressed)
    top = 0xFFFFFFFF
    common = struct.pack("<HHHHLLLHH", 0, 8, 0, 0x5821, crc, top, top, len(name), len(wide))
    with path.open("wb") as file:
        file.write(b"PK\3\4" + struct.pack("<H", 45) + common + name + wide)
        for _ in range(count):
            file.write(packed)
        file.write(b"\3\0")  # the empty last block
        at = file.tell()
        file.write(b"PK\1\2" + struct.pack("<HH", 45, 45) + common)
        file.write(struct.pack("<HHHLL", 0, 0, 0, 0, 0) + name + wide)
        length = file.tell() - at
        file.write(b"PK\6\6" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, 1, 1, length, at))
        file.write(b"PK\6\7" + struct.pack("<LQL", 0, at + length, 1))
        file.write(b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1, 1, length, top, 0))


def memory() -> dict[str, Any]:
    """Peak memory over sizes; 10 GB is proved only, so that its file need not fit anywhere."""
    table = {}
    with session() as bench:
        for label, size in (("100 MB", 10**8), ("1 GB", 10**9), ("10 GB, proved", 10**10)):
            repetitive(size, bench.place / "archive.zip")
            bench.put("memory/result.zip", bench.place / "archive.zip")
            command = [sys.executable, "-c", "from unzip.cli import main; main()", "extract"]
            command += [f"s3://{BUCKET}/memory/result.zip", f"s3://{BUCKET}/out/"]
            command += ["--dry-run"] if "proved" in label else []
            run = measure(command, bench.environment, bench.log)
            table[label] = {"peak_mib": round(run.memory, 1), "seconds": round(run.seconds, 1)}
            print(label, table[label], flush=True)
            shutil.rmtree(bench.server.folder / BUCKET / "out", ignore_errors=True)
    return table


@contextmanager
def session() -> Iterator[Bench]:
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="slipway-bench-", dir=shared if shared.is_dir() else None
    ) as folder:
        place = Path(folder)
        with serve_s3(place / "s3", [BUCKET]) as server:
            yield Bench(place, server)


def markdown(result: dict[str, Any]) -> str:
    lines = ["# unzip: from a zip in S3 to its files in S3", ""]
    lines += [
        "Interleaved rounds, medians; every way shares the machine's cores with the S3 server.",
        "Generated by `python -m bench.unzip`.",
        "",
    ]
    for name, case in result["cases"].items():
        ours = case["ways"]["ours"]["seconds"]
        lines += [
            f"## {name} ({case['files']} files, {case['bytes'] / 1e6:.0f} MB)",
            "",
            f"Scale {case['scale']}, rounds: {case['rounds']}, "
            f"load average before the start on {result['cores']} cores: {case['load']}.",
            "",
            "| way | rounds | seconds (fastest, slowest) "
            "| MB/s | files/s | CPU s/GB | peak MiB | ours is |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for way, row in case["ways"].items():
            lines.append(
                f"| {way} | {row.get('rounds', case['rounds'])} "
                f"| {row['seconds']} ({row['fastest']} to {row['slowest']}) "
                f"| {row['mb_per_second']} | {row['files_per_second']} "
                f"| {row['cpu_seconds_per_gb']} | {row['peak_mib']} "
                f"| {row['seconds'] / ours:.2f} x |"
            )
        lines.append("")
    if result.get("memory"):
        lines += ["## Peak memory over the archive's size", "", "| size | peak MiB |", "|---|---|"]
        lines += [f"| {name} | {row['peak_mib']} |" for name, row in result["memory"].items()]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--patience", type=float, default=30, help="seconds of a case that a slow rival may use"
    )
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--way", action="append", choices=RIVALS)
    parser.add_argument("--memory", action="store_true", help="only peak memory over sizes")
    arguments = parser.parse_args()
    packages.ensure(PACKAGES)
    path = RESULTS / "unzip.json"
    result = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    result["cores"] = os.cpu_count()
    RESULTS.mkdir(exist_ok=True)
    steps = [("memory", memory())] if arguments.memory else compare(arguments)
    for name, table in steps:
        if arguments.memory:
            result["memory"] = table
        else:
            result["cases"][name] = table
        # After each case, so that what was measured survives an interruption.
        path.write_text(json.dumps(result, indent=2) + "\n")
        path.with_suffix(".md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
