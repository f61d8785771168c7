"""The extractor's CronJob and Jobs on the cluster: missed schedules, eviction, two at once.

With dev's own image, settings and guard rails, on archives of another suffix and with a ledger
of their own, so that dev's CronJob and these do not see each other's.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

from tests.charts.scratch import eventually, kubectl
from unzip.s3.client import S3

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SPACE = "dev"
S3_URL = "http://127.0.0.1:7070"


def _archive(files: int) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(files):
            archive.writestr(f"{number:05}.txt", f"file {number}\n")
    return body.getvalue()


def _get(kind: str, name: str) -> Any:
    return json.loads(kubectl("get", kind, name, "-n", SPACE, "-o", "json"))


@dataclass(frozen=True)
class Yard:
    """A corner of dev's bucket, and the workloads that see only that."""

    name: str
    store: S3

    def put(self, user: str, files: int) -> None:
        key = f"{self.name}/{user}/{self.name}.zip"
        self.store.put(key, _archive(files), "application/zip", {})

    def published(self) -> dict[str, int]:
        """Users to the number of members that their manifest has."""
        found = {}
        for entry in self.store.entries(f"{self.name}/"):
            user, _, rest = entry.key.removeprefix(f"{self.name}/").partition("/")
            if rest == f"{self.name}/_manifest.json":
                document = json.loads(self.store.get(entry.key).body)
                found[user] = len(document["members"])
                there = list(self.store.entries(entry.key.removesuffix("_manifest.json")))
                assert len(there) == found[user] + 1
        return found

    def state(self, kind: str) -> list[dict[str, Any]]:
        """The ledger's records of a kind."""
        entries = self.store.entries(f".slipway/{self.name}/{kind}/")
        return [json.loads(self.store.get(entry.key).body) for entry in entries]

    def template(self, **settings: str) -> Any:
        """dev's Job, told to look only here."""
        spec = _get("cronjob", "unzip")["spec"]["jobTemplate"]["spec"]
        told = {
            "UNZIP_PREFIX": f"{self.name}/",
            "UNZIP_SUFFIX": f"/{self.name}.zip",
            "UNZIP_STATE_PREFIX": f".slipway/{self.name}/",
            **settings,
        }
        container = spec["template"]["spec"]["containers"][0]
        container["env"] += [{"name": name, "value": value} for name, value in told.items()]
        return spec

    def job(self, name: str, **settings: str) -> str:
        """Start a Job; its name."""
        full = f"{self.name}-{name}"
        self._create("batch/v1", "Job", full, self.template(**settings))
        return full

    def cron_job(self) -> str:
        """Make a CronJob of dev's kind, suspended; its name."""
        spec = _get("cronjob", "unzip")["spec"]
        spec |= {"suspend": True, "schedule": "* * * * *"}
        spec["jobTemplate"] = {"metadata": {"labels": self.labels}, "spec": self.template()}
        self._create("batch/v1", "CronJob", self.name, spec)
        return self.name

    @property
    def labels(self) -> dict[str, str]:
        return {"slipway-test": self.name}

    def _create(self, version: str, kind: str, name: str, spec: Any) -> None:
        metadata = {"name": name, "namespace": SPACE, "labels": self.labels}
        document = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
        kubectl("create", "-f", "-", text=json.dumps(document))

    def done(self, job: str) -> bool:
        """Whether a Job has ended; it must not have failed."""
        status = _get("job", job)["status"]
        assert not status.get("failed"), status
        return bool(status.get("completionTime"))

    def pods(self, job: str) -> list[Any]:
        found = kubectl("get", "pods", "-n", SPACE, "-l", f"job-name={job}", "-o", "json")
        return list(json.loads(found)["items"])

    def log(self, job: str) -> list[dict[str, Any]]:
        """What a Job's pods wrote."""
        text = kubectl("logs", "-n", SPACE, "-l", f"job-name={job}", "-c", "unzip", "--tail=-1")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def taken(self, job: str) -> list[str]:
        """Keys of the archives that a Job's pods published."""
        return [row["key"] for row in self.log(job) if row["message"] == "published"]


@pytest.fixture
def yard() -> Iterator[Yard]:
    data = _get("secret", "s3-credentials")["data"]
    access, secret = (
        base64.b64decode(data[name]).decode()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    )
    bucket = _get("configmap", "unzip")["data"]["UNZIP_BUCKET"]
    session = boto3.session.Session(access, secret, region_name="us-east-1")
    name = f"yard-{secrets.token_hex(3)}"
    yard = Yard(name, S3(bucket, session=session, endpoint=S3_URL))
    yield yard
    kubectl("delete", "cronjob,job", "-n", SPACE, "-l", f"slipway-test={name}", "--wait=false")
    for prefix in (f"{name}/", f".slipway/{name}/"):
        for entry in list(yard.store.entries(prefix)):
            yard.store.delete(entry.key)


def test_missed_schedules_are_made_up_by_one_run(yard: Yard) -> None:
    """Ten minutes without a run: one Job takes all that came meanwhile, and ends.

    That it was suspended so long is written into its status instead of being waited for.
    """
    for number in range(3):
        yard.put(f"user-{number}", files=number + 1)
    name = yard.cron_job()
    earlier = (datetime.now(UTC) - timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ")
    status = json.dumps({"status": {"lastScheduleTime": earlier}})
    patch = ("patch", "cronjob", name, "-n", SPACE, "--type=merge")
    kubectl(*patch, "--subresource=status", "-p", status)
    assert yard.published() == {}
    kubectl(*patch, "-p", '{"spec": {"suspend": false}}')
    eventually(yard.published, lambda found: len(found) == 3, seconds=120)
    kubectl(*patch, "-p", '{"spec": {"suspend": true}}')
    assert yard.published() == {"user-0": 1, "user-1": 2, "user-2": 3}
    listed = kubectl("get", "jobs", "-n", SPACE, "-l", f"slipway-test={name}", "-o", "json")
    jobs = [row["metadata"]["name"] for row in json.loads(listed)["items"]]
    working = [job for job in jobs if yard.taken(job)]
    assert len(working) == 1  # not one per missed schedule
    eventually(lambda: yard.done(working[0]), bool, seconds=60)
    sidecars = [
        row
        for pod in yard.pods(working[0])
        for row in pod["status"]["initContainerStatuses"]
        if row["name"] == "istio-proxy"
    ]
    assert sidecars, "the mesh gave the Job no sidecar"
    assert all(row["state"].get("terminated") for row in sidecars)


def test_two_jobs_at_once_share_the_work(yard: Yard) -> None:
    users = [f"user-{number:02}" for number in range(12)]
    for user in users:
        yard.put(user, files=150)
    jobs = [yard.job(name, UNZIP_WRITERS="1", UNZIP_ARCHIVES_AT_ONCE="1") for name in "ab"]
    for job in jobs:
        eventually(lambda job=job: yard.done(job), bool, seconds=200)  # type: ignore[misc]
    assert yard.published() == dict.fromkeys(users, 150)
    taken = [yard.taken(job) for job in jobs]
    assert sorted(key for keys in taken for key in keys) == [
        f"{yard.name}/{user}/{yard.name}.zip" for user in users
    ]
    assert all(taken), "one Job did everything"
    assert [row["attempts"] for row in yard.state("closed")] == [1] * len(users)


def test_an_evicted_pods_work_is_taken_up_by_the_next(yard: Yard) -> None:
    """It gives the archive back and ends well; the next run goes on where it was."""
    yard.put("user", files=3000)
    settings = {"UNZIP_WRITERS": "1", "UNZIP_CHECKPOINT_MEMBERS": "100", "UNZIP_DRAIN_SECONDS": "1"}
    job = yard.job("evicted", **settings)

    def progress() -> int:
        rows = yard.state("open")
        return sum(end - start for row in rows for start, end in row["done"])

    eventually(progress, lambda done: done >= 200, seconds=90)
    (first,) = [pod["metadata"]["name"] for pod in yard.pods(job)]
    metadata = {"name": first, "namespace": SPACE}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    kubectl(
        *("create", "--raw", f"/api/v1/namespaces/{SPACE}/pods/{first}/eviction", "-f", "-"),
        text=json.dumps(eviction),
    )
    eventually(lambda: yard.done(job), bool, seconds=60)
    assert yard.published() == {}, "it was through before it was evicted: the archive is too small"
    (claim,) = yard.state("open")
    assert claim["released"]
    done = progress()
    assert done >= 200
    after = yard.job("next")
    eventually(lambda: yard.done(after), bool, seconds=120)
    assert yard.published() == {"user": 3000}
    assert [row["done"] for row in yard.log(after) if row["message"] == "claimed"] == [done]
    (outcome,) = yard.state("closed")
    assert (outcome["state"], outcome["members"]) == ("published", 3000)
    assert outcome["attempts"] == 1  # given back, not lost
    assert yard.state("open") == []
