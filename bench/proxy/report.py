"""The measurements as people read them: tables, and each figure beside its goal. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.proxy.load import CONNECTIONS

Row = Mapping[str, float]


def goals(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each goal with what was measured and whether it was met; what was not run is left out."""
    rows: Mapping[str, Row] = results["pass_through"]["1 KB"]
    found: list[dict[str, Any]] = []

    def ratio(what: str, one: str, peer: str, goal: float) -> None:
        # A peer that answers nothing within a round gives no ratio; its row shows that.
        if one in rows and peer in rows and rows[peer]["requests_per_second"]:
            value = rows[one]["requests_per_second"] / rows[peer]["requests_per_second"]
            mine, theirs = rows[one]["cpu_seconds_per_1000"], rows[peer]["cpu_seconds_per_1000"]
            row = {"what": what, "measured": round(value, 2), "goal": goal, "met": value >= goal}
            found.append(row | ({"by_cpu": round(theirs / mine, 2)} if mine and theirs else {}))

    def bound(what: str, value: float, goal: float, *, most: bool) -> None:
        met = value <= goal if most else value >= goal
        found.append({"what": what, "measured": value, "goal": goal, "met": met})

    ratio("requests/s, times FastAPI + aiohttp", "ours", "fastapi + aiohttp", 2)
    ratio("requests/s, times FastAPI + httpx", "ours", "fastapi + httpx", 20)
    ratio("requests/s, times LiteLLM", "ours", "litellm", 10)
    ratio("requests/s, share of nginx", "ours", "nginx", 0.15)
    ratio("a cache hit, times a pass-through", "ours (cache hit)", "ours", 2)
    if half := results["half_load"].get("ours"):
        bound("added p50 at half load, ms", half["added_p50_ms"], 1.0, most=True)
        bound("added p99 at half load, ms", half["added_p99_ms"], 3.0, most=True)
    if jobs := results["jobs"]:
        bound("jobs a second and core", jobs["done_per_second"], 2000, most=False)
        bound("jobs lost", jobs["lost"], 0, most=True)
    return found


def markdown(results: Mapping[str, Any]) -> str:
    """The stored page."""
    lines = ["# Proxy", "", results["about"], ""]
    lines += table(
        "Goals",
        ["what", "measured", "by CPU", "goal", "met"],
        [
            [row["what"], row["measured"], row.get("by_cpu", ""), row["goal"],
             "yes" if row["met"] else "no"]
            for row in results["goals"]
        ],
    )  # fmt: skip
    for size, rows in results["pass_through"].items():
        lines += table(
            f"Pass-through, body of {size}, {CONNECTIONS} connections",
            ["server", "requests/s", "lowest to highest", "p50 ms", "p99 ms", "CPU s per 1,000",
             "MiB", "not 2xx"],
            [
                [name, f"{row['requests_per_second']:,}",
                 f"{row['lowest']:,} to {row['highest']:,}", row["p50_ms"], row["p99_ms"],
                 row["cpu_seconds_per_1000"], row["memory_mib"], row["non_2xx"]]
                for name, row in rows.items()
            ],
        )  # fmt: skip
    lines += table(
        "Added at a steady rate of half the server's own peak, 1 KB",
        ["server", "requests/s", "through p50, p99 ms", "direct p50, p99 ms", "added p50 ms",
         "added p99 ms", "not 2xx"],
        [steady(name, row) for name, row in results["half_load"].items()],
    )  # fmt: skip
    if past := results["past_the_proxy"]:
        lines += table(
            "A real model server, asked straight and through the proxy",
            ["way", "requests/s", "through p50, p99 ms", "direct p50, p99 ms", "added p50 ms",
             "added p99 ms", "not 2xx"],
            [steady("one digit", past)],
        )  # fmt: skip
        lines += [
            "This is what a route past the proxy saves, beside "
            f"{past['proxy_cpu_seconds_per_1000']} CPU seconds per 1,000 requests at this rate. "
            "What Istio's own hops add to either way is what `make bench-routing` measures.",
            "",
        ]
    if jobs := results["jobs"]:
        lines += table(
            "Jobs: one worker on one core, each job a JSON row to the model and back",
            list(jobs),
            [[f"{value:,}" for value in jobs.values()]],
        )
    return "\n".join(lines)


def steady(name: str, row: Row) -> list[Any]:
    """A row of the tables at a steady rate."""
    return [
        name,
        f"{row['rate']:,}",
        f"{row['through_p50_ms']}, {row['through_p99_ms']}",
        f"{row['direct_p50_ms']}, {row['direct_p99_ms']}",
        row["added_p50_ms"],
        row["added_p99_ms"],
        row["non_2xx"],
    ]


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A table under its title, with an empty line after it."""
    lines = [f"## {title}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return [*lines, ""]
