"""Everything that can be known to be wrong before it is committed.

Every environment and release is rendered with the Helm that Argo CD uses, checked against the
closed schemas of charts/schemas by kubeconform, and checked for what no schema can see: names
that point to nothing, addresses nobody answers at, settings that no image starts with.
"""

from release.validate.findings import Finding
from release.validate.run import Report, cross_checks, held_changes, validate

__all__ = ["Finding", "Report", "cross_checks", "held_changes", "validate"]
