"""Both sides of a connection say the same: the callee under `callers`, the caller under `calls`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from release.render import merged_values
from release.validate.environment import Environment
from release.validate.findings import Finding, at_value
from release.validate.network import addresses, connections
from release.validate.network.connections import GATEWAY, Connections
from release.values import layout

# Keys of a service's routes that send its requests to other releases.
_VARIANTS = ("split", "arms", "rules", "mirror")


def findings(environment: Environment) -> Iterator[Finding]:
    """Of every release that names callers or that calls, and of the paths at the gateway."""
    every = connections.of(environment)
    for mine in every.values():
        for name in (*mine.callers, *mine.calls):
            key = ("callers" if name in mine.callers else "calls", name)
            if not _known(environment, mine, name):
                yield from _unknown(environment, mine, key)
        for callee, ports in mine.calls.items():
            if callee in every:
                shared = connections.everywhere(environment, mine.release.name)
                yield from _not_listed(mine, every[callee], ports, shared)
        for caller in mine.callers if mine.has_service else ():
            if caller in every and mine.release.name not in every[caller].calls:
                if mine.release.name in addresses.services(environment, every[caller].release):
                    continue  # found at the address
                shared = connections.everywhere(environment, mine.release.name)
                yield _not_called(mine, every[caller], shared)
    yield from _public(environment, every)


def _known(environment: Environment, mine: Connections, name: str) -> bool:
    """Whether a name is the gateway's, a peer's or that of a release of the environment."""
    return (
        name == GATEWAY
        or name in mine.peers
        or name in environment.unseen
        or any(release.name == name for release in environment.documents)
    )


def _unknown(
    environment: Environment, mine: Connections, path: tuple[str, str]
) -> Iterator[Finding]:
    name = path[1]
    others = environment.only_elsewhere(name)
    names = sorted(r.name for r in environment.documents if r.chart == "service")
    near = difflib.get_close_matches(name, [*names, *mine.peers, GATEWAY], n=1)
    if others:
        message = (
            f"names {name!r}, which the environment does not have, only {' and '.join(others)}"
        )
        fix = (
            f"move the row to {layout.values_file(others[0], mine.release.name)}, or add {name} to "
            f"{layout.environment_file(environment.name)}"
        )
    else:
        message = f"names {name!r}, which is no release of the environment"
        fix = f"did you mean {near[0]}?" if near else f"use one of {', '.join(names) or '(none)'}"
    yield at_value(mine.root, mine.release, ".".join(path), message, fix, path)


def _not_listed(
    mine: Connections, callee: Connections, ports: frozenset[str], everywhere: bool
) -> Iterator[Finding]:
    """What a release calls and the callee's policies refuse."""
    caller, name = mine.release.name, callee.release.name
    path = ("calls", name)
    allowed = callee.callers.get(caller)
    if allowed is None:
        [port, *_] = sorted(ports)
        yield at_value(
            mine.root, mine.release, ".".join(path),
            f"names {name}, which does not list {caller} under callers: its policies refuse the "
            "connection",
            f"add {connections.row(caller, port)} under callers in "
            f"{callee.place('callers', everywhere=everywhere)}", path,
        )  # fmt: skip
    elif missing := sorted(ports - allowed):
        yield at_value(
            mine.root, mine.release, ".".join(path),
            f"names {', '.join(missing)} of {name}, which lets {caller} connect to "
            f"{', '.join(sorted(allowed))} alone",
            f"name one of those, or add {missing[0]} under callers.{caller}.ports in "
            f"{callee.place('callers')}", path,
        )  # fmt: skip


def _not_called(mine: Connections, caller: Connections, everywhere: bool) -> Finding:
    """A caller whose own policy lets it connect to nothing here."""
    name = caller.release.name
    path = ("callers", name)
    return at_value(
        mine.root, mine.release, ".".join(path),
        f"names {name}, which does not list {mine.release.name} under calls: its network policy "
        "refuses the connection",
        f"add {connections.row(mine.release.name, min(mine.callers[name]))} under calls in "
        f"{caller.place('calls', everywhere=everywhere)}, or take the caller out", path,
    )  # fmt: skip


def _public(environment: Environment, every: Mapping[str, Connections]) -> Iterator[Finding]:
    """Paths at the gateway lead to releases that let the gateway in, and so do their variants."""
    routing = environment.release("routing")
    if routing is None:
        return
    routes = merged_values.of_files(environment.root, routing).get("services")
    for name, route in routes.items() if isinstance(routes, dict) else ():
        if not isinstance(route, dict) or name not in every:
            continue
        public = bool(route.get("paths"))
        if public and GATEWAY not in every[name].callers:
            yield at_value(
                environment.root, routing, f"services.{name}.paths",
                f"leads from the gateway to {name}, which does not list the gateway under callers: "
                "every request is answered 403",
                f"add `gateway: {{}}` under callers in {every[name].place('callers')}",
                ("services", name, "paths"),
            )  # fmt: skip
            continue
        wanted = {caller for caller in every[name].callers if caller in every or caller == GATEWAY}
        for key, target in _targets(route):
            if target == name or target not in every:
                continue
            for caller in sorted(wanted - every[target].callers.keys()):
                if caller == GATEWAY and not public:
                    continue
                yield at_value(
                    environment.root, routing, f"services.{name}.{key}",
                    f"sends requests of {caller} on to {target}, which does not list {caller} "
                    "under callers: they are answered 403",
                    f"add {connections.row(caller)} under callers in "
                    f"{every[target].place('callers')}", ("services", name, key),
                )  # fmt: skip


def _targets(route: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The releases that a service's routes name, each with the key that names it."""
    for key in _VARIANTS:
        section = route.get(key)
        if not isinstance(section, dict):
            continue
        named: Sequence[object] = []
        if key == "split":
            named = [target for target, weight in section.items() if weight is not None]
        elif key == "arms":
            named = list(section.values())
        elif key == "rules":
            named = [rule.get("to") for rule in section.values() if isinstance(rule, dict)]
        else:
            named = [section.get("to")]
        for target in dict.fromkeys(str(one).split("/", 1)[0] for one in named if one):
            yield key, target
