"""A cluster of one node: every component a real process of this machine."""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.request
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.clusters.kubernetes import (
    build,
    certificates,
    cgroups,
    claims,
    configuration,
    images,
    network,
    remains,
    seeds,
)
from tests.clusters.kubernetes.components import (
    COMPONENTS,
    containerd_command,
    environment,
    node_ready,
)
from tests.clusters.kubernetes.slots import NODE, Slot
from tests.clusters.processes import Process, appears, start

_READY_S = 120.0


class Cluster:
    """A one-node Kubernetes. It is used up by `stop`: start another one.

    Two can run at the same time, in one process or in several. What a killed process leaves is
    removed by the next start.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot

    @classmethod
    def start(
        cls, folder: Path | None = None, *, loaded: Collection[str] = images.NAMES
    ) -> Cluster:
        """Start one and return it with its node ready and its images loaded.

        Takes 10 to 20 s; a minute more when images are to be loaded for the first time, and ten
        when Kubernetes is still to be built.

        It is removed by the next start after this process's end, unless `detach` is called.

        Args:
            folder: where its files are kept, missing or empty; by default a new one in the cache.
            loaded: the images to load (of images.NAMES); built when they are not in the cache.

        Raises:
            RuntimeError: a component did not come up; names its log's last lines. Nothing is left.
        """
        for name in build.COMPONENTS:
            build.binary(name)
        slot = claims.claim(folder)
        cluster = cls(slot)
        try:
            cluster._start(loaded)
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @classmethod
    def find(cls, folder: Path) -> Cluster | None:
        """Return the living cluster whose files are in `folder`, whoever started it."""
        slot = claims.at(folder)
        return cls(slot) if slot is not None and slot.alive() else None

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, with the one context `configuration.CONTEXT`."""
        return self.slot.kubeconfig

    @property
    def node_ip(self) -> str:
        """The address at which pods reach servers of this host."""
        return self.slot.node_ip

    def stop(self) -> None:
        """End all of it and remove what it made; safe to repeat."""
        if self.slot.run.exists():
            remains.remove(self.slot)
            claims.release(self.slot)

    def detach(self) -> None:
        """Let it outlive this process: from now on it ends by `stop` only."""
        self.slot.claimed_by(None)

    def process(self, component: str) -> Process | None:
        """Return the living process of a component (a key of COMPONENTS)."""
        return Process.read(self.slot.pid_file(component))

    def kill(self, component: str) -> None:
        """End a component at once, as a crash would; returns when it is gone."""
        process = self.process(component)
        if process:
            process.end(grace_s=0)

    def launch(self, component: str, *options: str) -> None:
        """Start a component that does not run, and return when it serves.

        Args:
            component: a key of COMPONENTS.
            options: more of its command line's, for this time.
        """
        self._spawn(component, *options)
        self._await(component)

    def restart(self, component: str, *options: str) -> None:
        """Kill a component and start it again; returns when it serves; see `launch`."""
        self.kill(component)
        self.launch(component, *options)

    def compact(self) -> None:
        """Have etcd forget every revision but the newest.

        What the API server has in its own memory it still knows, until it is restarted.
        """
        newest = _etcd(f"{self._kv}/range", {"key": "AA==", "limit": "1"})["header"]["revision"]
        _etcd(f"{self._kv}/compaction", {"revision": newest, "physical": True})

    def load(self, image: str) -> None:
        """Load one of this package's images, built if need be."""
        command = containerd_command(self.slot, "images", "import", "-")
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as importing:
            assert importing.stdin is not None
            assert importing.stderr is not None
            images.write_archive(importing.stdin, image)
            importing.stdin.close()
            complaint = importing.stderr.read().decode()
        if importing.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {complaint}")

    def load_image(self, tar: Path) -> None:
        """Load every image of a docker-archive or OCI tar."""
        command = containerd_command(self.slot, "images", "import", str(tar))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")

    def trust_registry(self, host: str) -> None:
        """Let the node pull images from a registry (host and port) over plain HTTP."""
        configuration.trust_registry(self.slot, host)

    def log(self, component: str) -> Path:
        """Return the file of a component's output."""
        return self.slot.folder / f"{component}.log"

    @property
    def _kv(self) -> str:
        return f"http://{self.slot.loopback}:2379/v3/kv"

    def _start(self, loaded: Collection[str]) -> None:
        slot = self.slot
        certificates.make(
            slot.certificates, certificates.identities(NODE, slot.node_ip, slot.service_ip)
        )
        configuration.write(slot)
        network.up(slot)
        cgroups.make(slot.name)
        self.launch("etcd")
        # No API server begins at revision 1, so that this one is too old for a watch of any kind.
        _etcd(f"{self._kv}/put", {"key": base64.b64encode(b"first").decode()})
        self._spawn("kube-apiserver")
        self._start_containerd({images.PAUSE, *loaded})
        self._await("kube-apiserver")
        for name in ("kube-controller-manager", "kube-scheduler", "kubelet"):
            self._spawn(name)
        for name in COMPONENTS:
            self._await(name)
        if not appears(lambda: node_ready(slot), timeout_s=_READY_S):
            raise RuntimeError(f"the node is not ready after {_READY_S} s; {self._tail('kubelet')}")

    def _start_containerd(self, loaded: Collection[str]) -> None:
        folder = self.slot.folder / "containerd"
        if not seeds.restore(loaded, folder):
            self.launch("containerd")
            for image in loaded:
                self.load(image)
            if process := self.process("containerd"):
                process.end(grace_s=30)
            seeds.keep(loaded, folder)
        self.launch("containerd")

    def _spawn(self, component: str, *options: str) -> None:
        start(
            [*COMPONENTS[component].command(self.slot), *options],
            log=self.log(component),
            record=self.slot.pid_file(component),
            environment=environment(),
            ahead=component in ("etcd", "kube-apiserver"),
        )

    def _await(self, component: str) -> None:
        ready = COMPONENTS[component].ready

        def settled() -> bool:
            return self.process(component) is None or ready(self.slot)

        if not appears(settled, timeout_s=_READY_S):
            raise RuntimeError(f"{component}: not ready in {_READY_S} s; {self._tail(component)}")
        if self.process(component) is None:
            raise RuntimeError(f"{component}: ended; {self._tail(component)}")

    def _tail(self, component: str) -> str:
        lines = self.log(component).read_text(errors="replace").splitlines()[-15:]
        return "the end of its log:\n" + "\n".join(lines)


def _etcd(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Call etcd's JSON gateway (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/)."""
    request = urllib.request.Request(url, json.dumps(body).encode())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found
