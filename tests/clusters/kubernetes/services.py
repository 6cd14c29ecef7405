"""Names and addresses of Services inside the cluster, for tests whose pods ask one another.

It stands for CoreDNS and kube-proxy, of which the second would take the rules of all clusters of
this machine for its own. Names are answered as CoreDNS does
(https://github.com/kubernetes/dns/blob/master/docs/specification.md), and a Service's address leads
to a pod that is ready by a rule of the kernel's, as kube-proxy makes them. It shares no load.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes import client

from tests.clusters.kubernetes import network
from tests.clusters.kubernetes.configuration import name_servers
from tests.clusters.kubernetes.slots import Slot

_POLL_S = 0.3
_A, _NOT_THERE = 1, 3


def pod_dns(slot: Slot, namespace: str) -> dict[str, Any]:
    """Return the part of a pod that makes it ask `service_network` for names."""
    domains = [f"{namespace}.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    options = [{"name": "ndots", "value": "5"}]
    config = {"nameservers": [slot.node_ip], "searches": domains, "options": options}
    return {"dnsPolicy": "None", "dnsConfig": config}


@dataclass
class _Network:
    slot: Slot
    namespace: str
    api: client.ApiClient
    stopped: threading.Event = field(default_factory=threading.Event)
    addresses: dict[str, str] = field(default_factory=dict)
    rules: dict[str, list[str]] = field(default_factory=dict)

    def follow(self) -> None:
        """Keep rules and names as the Services and their pods are."""
        while not self.stopped.wait(_POLL_S):
            with contextlib.suppress(client.ApiException, OSError, RuntimeError):
                self._set({name: found for name, *found in self._services()})

    def _services(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name, the address and a ready pod (address and port) of each Service."""
        core, found = client.CoreV1Api(self.api), {}
        slices = client.DiscoveryV1Api(self.api).list_namespaced_endpoint_slice(self.namespace)
        for item in slices.items:
            owner = item.metadata.labels.get("kubernetes.io/service-name")
            for endpoint in item.endpoints or ():
                if endpoint.conditions.ready and item.ports:
                    found[owner] = f"{endpoint.addresses[0]}:{item.ports[0].port}"
        for service in core.list_namespaced_service(self.namespace).items:
            name = service.metadata.name
            yield name, service.spec.cluster_ip, found.get(name, "")

    def _set(self, wanted: Mapping[str, list[str]]) -> None:
        self.addresses = {name: address for name, (address, _) in wanted.items()}
        new = {
            address: ["-d", f"{address}/32", "-p", "tcp", "--dport", "80", "-m", "comment",
                      "--comment", self.slot.name, "-j", "DNAT", "--to", pod]
            for address, pod in wanted.values() if pod
        }  # fmt: skip
        for address, rule in list(self.rules.items()):
            if new.get(address) != rule:
                network.iptables("nat", "-D", "PREROUTING", *rule)
                del self.rules[address]
        for address, rule in new.items():
            if address not in self.rules:
                network.iptables("nat", "-I", "PREROUTING", *rule)
                self.rules[address] = rule

    def answer(self, question: bytes) -> bytes:
        """Answer a question for a name; those that are of no Service go to the machine's server."""
        labels, at = [], 12
        while length := question[at]:
            labels.append(question[at + 1 : at + 1 + length].decode().lower())
            at += 1 + length
        kind = struct.unpack_from("!H", question, at + 1)[0]
        end = at + 5
        if labels[-2:] != ["cluster", "local"]:
            return _asked(question)
        of_here = labels[1:] == [self.namespace, "svc", "cluster", "local"]
        address = self.addresses.get(labels[0]) if of_here else None
        flags = 0x8180 | (0 if address else _NOT_THERE)
        has = int(address is not None and kind == _A)
        head = question[:2] + struct.pack("!HHHHH", flags, 1, has, 0, 0) + question[12:end]
        if address is None or not has:
            return head
        return head + b"\xc0\x0c" + struct.pack("!HHIH", _A, 1, 1, 4) + socket.inet_aton(address)


def _asked(question: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as upstream:
        upstream.settimeout(5)
        upstream.sendto(question, (name_servers()[0], 53))
        return upstream.recv(4096)


@contextlib.contextmanager
def service_network(slot: Slot, namespace: str, api: client.ApiClient) -> Iterator[None]:
    """Give the pods of a namespace, as far as they have `pod_dns`, its Services."""
    here = _Network(slot, namespace, api)
    same_bridge = ["-s", slot.subnet, "-d", slot.subnet, "-m", "conntrack", "--ctstate", "DNAT",
                   "-m", "comment", "--comment", slot.name, "-j", "MASQUERADE"]  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((slot.node_ip, 53))
        server.settimeout(_POLL_S)

        def serve() -> None:
            while not here.stopped.is_set():
                with contextlib.suppress(OSError, IndexError, struct.error):
                    question, who = server.recvfrom(4096)
                    server.sendto(here.answer(question), who)

        threads = [threading.Thread(target=task) for task in (serve, here.follow)]
        network.iptables("nat", "-I", "POSTROUTING", *same_bridge)
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            here.stopped.set()
            for thread in threads:
                thread.join()
            try:
                here._set({})
            finally:
                network.iptables("nat", "-D", "POSTROUTING", *same_bridge)
