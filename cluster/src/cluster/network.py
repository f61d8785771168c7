"""The bridge the pods hang on, and the traces it leaves in the machine."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from cluster import layout
from cluster.errors import ClusterError
from cluster.layout import Layout

SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/route_localnet": "1",
}
CNI_NETWORK = "slipway"
DEBIAN_CNI_PLUGINS = Path("/usr/lib/cni")


def ensure_bridge(state: Path) -> str:
    """Create the bridge with the node's address and switch forwarding on; remember what was."""
    _remember_sysctls(state / "sysctls.json")
    for name, value in SYSCTLS.items():
        Path("/proc/sys", name).write_text(value)
    if not Path("/sys/class/net", layout.BRIDGE).exists():
        _run("ip", "link", "add", layout.BRIDGE, "type", "bridge")
        word = "created"
    else:
        word = "kept"
    _run("ip", "address", "replace", f"{layout.NODE_ADDRESS}/16", "dev", layout.BRIDGE)
    _run("ip", "link", "set", layout.BRIDGE, "up")
    # Without this a service's answer from a pod on the same bridge would bypass its NAT.
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists():
        bridged.write_text("1")
    return word


def write_cni(where: Layout) -> None:
    """CNI plugins and their configuration, in folders istio-cni may write to."""
    plugins, configuration = where.state / "cni" / "bin", where.state / "cni" / "net.d"
    plugins.mkdir(parents=True, exist_ok=True)
    configuration.mkdir(parents=True, exist_ok=True)
    for name in ("bridge", "host-local", "loopback"):
        link = plugins / name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(DEBIAN_CNI_PLUGINS / name)
    chain = configuration / "10-slipway.conflist"
    bridge = {
        "type": "bridge",
        "bridge": layout.BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(where.run / "cni"),
            "ranges": [[{"subnet": layout.POD_NETWORK, "rangeStart": "198.18.1.1"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    # istio-cni appends itself to this file; a file that has our part already is left alone.
    if chain.is_file():
        present = json.loads(chain.read_text() or "{}").get("plugins", [])
        if present and present[0] == bridge:
            return
    document = {"cniVersion": "0.4.0", "name": CNI_NETWORK, "plugins": [bridge]}
    chain.write_text(json.dumps(document, indent=2))


def remove(state: Path) -> None:
    """Take away the bridge, the firewall rules of cluster and pods, and restore the sysctls."""
    if Path("/sys/class/net", layout.BRIDGE).exists():
        _run("ip", "link", "delete", layout.BRIDGE)
    for save, restore in (
        ("iptables-save", "iptables-restore"),
        ("ip6tables-save", "ip6tables-restore"),
    ):
        rules = subprocess.run([save], capture_output=True, text=True, check=False).stdout
        cleaned = without_cluster_rules(rules)
        if cleaned != rules:
            subprocess.run([restore], input=cleaned, text=True, check=True)
    remembered = state / "sysctls.json"
    if remembered.is_file():
        for name, value in json.loads(remembered.read_text()).items():
            Path("/proc/sys", name).write_text(value)
        remembered.unlink()


def without_cluster_rules(rules: str) -> str:
    """The output of iptables-save less the chains of kube-proxy, the kubelet and our CNI.

    CNI chains of other networks on the machine stay: ours carry the network's name.
    """
    ours = set(re.findall(rf'-[Aj] (CNI-[0-9a-f]+).*name: "{CNI_NETWORK}"', rules))
    ours |= set(re.findall(rf'--comment "name: \\"{CNI_NETWORK}\\".*-j (CNI-[0-9a-f]+)', rules))

    def belongs(line: str) -> bool:
        if re.search(r"(^:|-[Aj] )KUBE-", line):
            return True
        if f'name: \\"{CNI_NETWORK}\\"' in line:
            return True
        return any(re.search(rf"(^:|-[Aj] ){chain}\b", line) for chain in ours)

    return "".join(line for line in rules.splitlines(keepends=True) if not belongs(line))


def _remember_sysctls(path: Path) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    before = {name: Path("/proc/sys", name).read_text().strip() for name in SYSCTLS}
    path.write_text(json.dumps(before))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
