"""Starts the issuer, and does what a person or an operator would do there."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from mlflow_exec.clients.ports import free_port
from mlflow_exec.testing.collecting import until
from tests.clusters.cache import build_once, cache_folder
from tests.clusters.pytest_kubernetes import unavailable

VERSION = "9.13.3"
SECRET = "a-secret-of-a-client-that-nobody-may-see"
RESOURCE = "https://mlflow.example"


@dataclass(frozen=True)
class Key:
    """A key that signs JWTs, as somebody's else than the issuer's."""

    private: rsa.RSAPrivateKey
    name: str

    @classmethod
    def new(cls, name: str) -> Key:
        """Make one."""
        return cls(rsa.generate_private_key(65537, 2048), name)

    def jwt(self, **claims: Any) -> str:
        """Sign claims, good for an hour if they do not say otherwise."""
        now = int(time.time())
        head = {"alg": "RS256", "kid": self.name, "typ": "JWT"}
        body = {"iat": now, "exp": now + 3600, "jti": str(time.time_ns()), **claims}
        signed = ".".join(_coded(json.dumps(part).encode()) for part in (head, body))
        signature = self.private.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_coded(signature)}"

    def jwks(self, *, private: bool = False) -> dict[str, Any]:
        """Return it as a set of keys."""
        numbers = self.private.private_numbers()
        public = numbers.public_numbers
        names = {"n": public.n, "e": public.e}
        if private:
            names |= {
                "d": numbers.d, "p": numbers.p, "q": numbers.q, "dp": numbers.dmp1,
                "dq": numbers.dmq1, "qi": numbers.iqmp,
            }  # fmt: skip
        coded = {k: _coded(v.to_bytes((v.bit_length() + 7) // 8, "big")) for k, v in names.items()}
        return {"keys": [{"kty": "RSA", "kid": self.name, "alg": "RS256", "use": "sig", **coded}]}


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass(frozen=True)
class TestIssuer:
    """An issuer that runs.

    Attributes:
        url: Its name.
        key: Of who signs the assertions of the client ``asserting``.
    """

    __test__ = False

    url: str
    key: Key

    def confirm(self, user_code: str, *, refuse: bool = False) -> None:
        """Confirm a device's code as the person `me`, or refuse it."""
        query = f"user_code={user_code}{'&no=1' if refuse else ''}"
        requests.post(f"{self.url}/of-the-test/confirm?{query}").raise_for_status()

    def let_tokens_live(self, seconds: int) -> None:
        """Say how long access tokens that are given from now on live."""
        requests.post(f"{self.url}/of-the-test/life?s={seconds}").raise_for_status()

    def knows(self, authorization: str | None) -> bool:
        """Whether it has given this bearer token, and it is good."""
        token = (authorization or "").removeprefix("Bearer ")
        answer = requests.post(
            f"{self.url}/token/introspection", data={"token": token}, auth=("machine", SECRET)
        )
        return bool(answer.json().get("active"))

    def revoke(self, token: str, client: str) -> None:
        """Revoke a token, as its client."""
        form = {"token": token, "client_id": client}
        requests.post(f"{self.url}/token/revocation", data=form).raise_for_status()


@contextlib.contextmanager
def oidc_issuer(folder: Path) -> Iterator[TestIssuer]:
    """Run one; it keeps everything in memory."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        unavailable("node and npm are not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").partition(".")[0]) < 20:
        unavailable(f"node is {version.strip()}, and 20 is needed")

    def install(part: Path) -> None:
        part.mkdir()
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", part]
        subprocess.run([*map(str, command), f"oidc-provider@{VERSION}"], check=True,
                       capture_output=True)  # fmt: skip

    packages = build_once(cache_folder() / f"oidc-provider-{VERSION}", install)
    port = free_port()
    key = Key.new("of-the-test")
    settings = {
        "secret": SECRET,
        "jwks": key.jwks(),
        "issuerJwks": Key.new("of-the-issuer").jwks(private=True),
    }
    program = Path(__file__).with_name("server.mjs")
    command = [node, str(program), str(packages), str(port), json.dumps(settings)]
    with (folder / "issuer.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    issuer = TestIssuer(f"http://127.0.0.1:{port}", key)

    def answers() -> bool:
        assert process.poll() is None, (folder / "issuer.log").read_text()[-3000:]
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{issuer.url}/.well-known/openid-configuration").close()
            return True
        return False

    try:
        until(answers, "the issuer answers")
        yield issuer
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
