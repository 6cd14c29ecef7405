"""The certificates of one cluster, made by openssl: a CA, and a key pair per identity.

Kubernetes reads who somebody is from a client certificate: CN is the user, each O a group
(https://kubernetes.io/docs/setup/best-practices/certificates/).
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_DAYS = "3650"


@dataclass(frozen=True)
class Identity:
    """Whom a certificate names: its file's name, its subject, and the addresses it may serve."""

    name: str
    subject: str
    alternative_names: Sequence[str] = ()


def identities(node: str, node_ip: str, service_ip: str) -> list[Identity]:
    """Return every identity of a one-node cluster."""
    api_names = ["DNS:kubernetes", "DNS:kubernetes.default", "DNS:kubernetes.default.svc",
                 "DNS:localhost", f"IP:{node_ip}", f"IP:{service_ip}"]  # fmt: skip
    return [
        Identity("apiserver", "/CN=kube-apiserver", api_names),
        Identity("kubelet", f"/CN={node}", [f"DNS:{node}", f"IP:{node_ip}"]),
        Identity("admin", "/O=system:masters/CN=mlflow-exec-test-admin"),
        Identity("apiserver-to-kubelet", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
        Identity("node", f"/O=system:nodes/CN=system:node:{node}"),
        Identity("kube-controller-manager", "/CN=system:kube-controller-manager"),
        Identity("kube-scheduler", "/CN=system:kube-scheduler"),
    ]


def make(folder: Path, wanted: Sequence[Identity]) -> None:
    """Write `ca`, `service-account` and every wanted identity as <name>.crt and <name>.key."""
    folder.mkdir(mode=0o700)
    _openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", "ca.key", "-out", "ca.crt", "-days", _DAYS,
             "-subj", "/CN=mlflow-exec-test-ca",
             "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout",
             "-out", "service-account.key")  # fmt: skip
    _openssl(folder, "ec", "-in", "service-account.key", "-pubout", "-out", "service-account.pub")
    for identity in wanted:
        _sign(folder, identity)


def _sign(folder: Path, identity: Identity) -> None:
    name = identity.name
    usage = "serverAuth" if identity.alternative_names else "clientAuth"
    # The two key identifiers are what Python 3.13 asks for (VERIFY_X509_STRICT).
    extensions = f"extendedKeyUsage={usage}\nauthorityKeyIdentifier=keyid\n"
    extensions += "subjectKeyIdentifier=hash\n"
    if identity.alternative_names:
        extensions += f"subjectAltName={','.join(identity.alternative_names)}\n"
    (folder / f"{name}.ext").write_text(extensions)
    _openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr",
             "-subj", identity.subject)  # fmt: skip
    _openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
             "-CAcreateserial", "-out", f"{name}.crt", "-days", _DAYS,
             "-extfile", f"{name}.ext")  # fmt: skip


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")
