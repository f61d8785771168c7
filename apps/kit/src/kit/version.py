"""Which build of a service answers: its package's version and the revision it was built from."""

from __future__ import annotations

import re
from importlib import metadata


def version_of(distribution: str, revision: str = "") -> str:
    """``0.1.0+6a68001c0ffe``: the version of a distribution, with the revision where it is known.

    The form is that of PEP 440, whose local part holds letters, digits and dots.
    """
    local = re.sub(r"[^a-z0-9]+", ".", revision.lower()).strip(".")[:12].strip(".")
    version = metadata.version(distribution)
    return f"{version}+{local}" if local else version
