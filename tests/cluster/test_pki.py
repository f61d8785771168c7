"""Certificates chain to their authority, are renewed in time, and keep what they need not lose."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from cluster import pki

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pki")
    pki.ensure(made, now=NOW)
    return made


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


@pytest.mark.parametrize("leaf", pki.LEAVES, ids=lambda leaf: leaf.name)
def test_each_leaf_is_signed_by_its_authority(folder: Path, leaf: pki.Leaf) -> None:
    issued = certificate(folder, leaf.name)
    issued.verify_directly_issued_by(certificate(folder, leaf.authority))
    names = issued.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in names] == [leaf.common_name]


def test_a_second_run_writes_nothing(folder: Path) -> None:
    assert pki.ensure(folder, now=NOW + timedelta(days=1)) == []


def test_leaves_are_renewed_before_they_expire_and_authorities_kept(tmp_path: Path) -> None:
    pki.ensure(tmp_path, now=NOW)
    authority = (tmp_path / "ca.crt").read_bytes()
    written = pki.ensure(tmp_path, now=NOW + timedelta(days=340))
    assert "apiserver" in written
    assert "ca" not in written
    assert (tmp_path / "ca.crt").read_bytes() == authority
    renewed = certificate(tmp_path, "apiserver")
    assert renewed.not_valid_after_utc > NOW + timedelta(days=600)


def test_a_lost_key_is_made_again_with_its_certificate(tmp_path: Path) -> None:
    pki.ensure(tmp_path, now=NOW)
    (tmp_path / "admin.key").unlink()
    assert pki.ensure(tmp_path, now=NOW) == ["admin"]


def test_a_new_authority_signs_all_of_its_leaves_again(tmp_path: Path) -> None:
    pki.ensure(tmp_path, now=NOW)
    (tmp_path / "etcd-ca.crt").unlink()
    assert pki.ensure(tmp_path, now=NOW) == ["etcd-ca", "etcd-server", "etcd-client"]


def test_keys_are_readable_for_the_owner_alone(folder: Path) -> None:
    secret = [*folder.glob("*.key"), *folder.glob("*.kubeconfig")]
    assert len(secret) > len(pki.LEAVES)
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}
