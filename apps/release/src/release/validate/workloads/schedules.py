"""When a CronJob runs: schedules and time zones that Kubernetes refuses, or that never come."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from release.validate.environment import Environment
from release.validate.findings import Context, Finding

# Kubernetes' parser: https://pkg.go.dev/github.com/robfig/cron/v3#hdr-CRON_Expression_Format
_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12),
           ("day of the week", 0, 6))  # fmt: skip
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_NAMES = {3: {name: n for n, name in enumerate(_MONTHS, 1)}, 4: {n: d for d, n in enumerate(_DAYS)}}
_SHORT = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_FIX = "write five fields: minute, hour, day of the month, month, day of the week"


def findings(environment: Environment) -> Iterator[Finding]:
    """Of every CronJob."""
    for release, manifests in environment.documents.items():
        for document in manifests:
            if document["kind"] != "CronJob":
                continue
            context, spec = Context(environment.root, release, document), document["spec"]
            key = ("cronJob", "schedule")
            wrong = refusal(str(spec["schedule"]))
            if wrong:
                message = f"has the schedule {spec['schedule']!r}, {wrong}"
                yield context.finding("cronJob.schedule", message, _FIX, key)
            zone = spec.get("timeZone")
            if zone is not None and not _is_zone(str(zone)):
                near = difflib.get_close_matches(str(zone), sorted(available_timezones()), n=1)
                yield context.finding(
                    "cronJob.timeZone", f"has the time zone {zone!r}, which is none",
                    f"did you mean {near[0]}?" if near else "write one such as Asia/Seoul",
                    ("cronJob", "timeZone"),
                )  # fmt: skip


def refusal(schedule: str) -> str:
    """What is wrong with a schedule; empty for a good one."""
    text = schedule.strip()
    if text in _SHORT or re.fullmatch(r"@every ([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h))+", text):
        return ""
    fields = text.split()
    if len(fields) != len(_FIELDS):
        return f"which has {len(fields)} fields instead of 5"
    times = []
    for number, (field, (name, least, most)) in enumerate(zip(fields, _FIELDS, strict=True)):
        found = _times(field, least, most, _NAMES.get(number, {}))
        if found is None:
            return f"whose {name} {field!r} is none from {least} to {most}"
        times.append(found)
    every_day = fields[4] in ("*", "?")
    if every_day and not any(min(times[2]) <= _LONGEST[month - 1] for month in times[3]):
        return "whose day no month has: it never runs"
    return ""


def _times(field: str, least: int, most: int, names: dict[str, int]) -> set[int] | None:
    """The moments of one field; None where it is not written as it must be."""
    found: set[int] = set()
    for part in field.split(","):
        match = re.fullmatch(r"(\*|\?|([0-9A-Za-z]+)(?:-([0-9A-Za-z]+))?)(?:/([0-9]+))?", part)
        if match is None or match[4] == "0" * len(match[4] or "-"):
            return None
        first, last = least, most
        if match[2] is not None:
            given = [names.get(one.lower(), one) for one in (match[2], match[3] or match[2])]
            if not all(isinstance(one, int) or one.isdecimal() for one in given):
                return None
            first, last = (int(one) for one in given)
            if match[3] is None and match[4] is not None:
                last = most
        if not least <= first <= last <= most:
            return None
        found |= set(range(first, last + 1, int(match[4] or 1)))
    return found


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return name not in ("", "Local", "localtime")
