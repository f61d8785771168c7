"""What a Deployment asks for, held against Git where Argo CD says that they are the same."""

from __future__ import annotations

from collections.abc import Sequence

from release.cluster.client import Object
from release.diagnosis.causes import Cause
from release.values.references import Image

IMAGE_DRIFT = "image drift"
"""The kind of the cause."""


def causes(deployment: Object | None, wanted: Image) -> Sequence[Cause]:
    """One cause where the Deployment asks for another image than ``wanted``.

    It is not final by itself: Argo CD may not have looked at the newest commit yet.
    """
    if deployment is None:
        return ()
    images = [each["image"] for each in deployment["spec"]["template"]["spec"]["containers"]]
    if any(image.endswith(f"@{wanted.digest}") for image in images):
        return ()
    name = deployment["metadata"]["name"]
    return (
        Cause(
            IMAGE_DRIFT,
            f"Deployment {name} asks for {', '.join(images)}, Git for {wanted.digest}, and Argo CD "
            "says Synced",
            fix="let Argo CD apply Git again (does its controller run?), and see who changed it "
            f"with `kubectl get deployment {name} --show-managed-fields -o yaml`",
        ),
    )
