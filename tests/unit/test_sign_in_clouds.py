"""Google, Azure and Oracle: the vendors' own libraries, before servers that follow their APIs."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from mlflow_exec.auth.reading import find_sign_ins
from mlflow_exec.auth.request_auth import RequestAuth
from mlflow_exec.errors import MissingExtraError, MlflowExecError
from tests.answering_server import Answer, Asked, answering, self_signed
from tests.guarded_server import guarded
from tests.oidc.issuer import Key

SECRET = "a-secret-that-nobody-may-see"
KEY = Key.new("of-the-test")
AUDIENCE = "1234.apps.googleusercontent.com"

# Asks as a process of its own: the libraries read where they run when they are imported.
_ASK = """
from mlflow_exec.auth.reading import find_sign_ins
from mlflow_exec.errors import MlflowExecError
try:
    found = find_sign_ins()[0].flow().credential()
    print(found.secret.reveal(), found.source, int(found.expires_at_s or 0), sep="|")
except MlflowExecError as error:
    print(type(error).__name__, error, sep="|")
"""


def ask(flow: str, environment: dict[str, str] | None = None, **settings: str) -> list[str]:
    """Return token, source and expiry, or the error and its text."""
    given = {f"MLFLOW_EXEC_AUTH_{name.upper()}": value for name, value in settings.items()}
    env = {**os.environ, "MLFLOW_EXEC_AUTH": flow, **given, **(environment or {})}
    done = subprocess.run([sys.executable, "-c", _ASK], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip().split("|")


# -- Google


def key_file(folder: Path, token_uri: str) -> Path:
    pem = KEY.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "key.json"
    fields = {
        "type": "service_account", "client_email": "me@p.example", "private_key_id": "1",
        "token_uri": token_uri, "private_key": pem.decode(),
    }  # fmt: skip
    path.write_text(json.dumps(fields))
    return path


def of_google(asked: Asked) -> Answer:
    """https://developers.google.com/identity/protocols/oauth2/service-account#httprest"""
    if asked.form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
        return Answer({"error": "unsupported_grant_type"}, 400)
    head, body, signature = asked.form["assertion"].split(".")
    KEY.private.public_key().verify(
        base64.urlsafe_b64decode(signature + "=="), f"{head}.{body}".encode(),
        padding.PKCS1v15(), hashes.SHA256(),
    )  # fmt: skip
    claims = base64.urlsafe_b64decode(body + "==").decode()
    found = re.search(r'"target_audience": ?"([^"]+)"', claims)
    if not found or found[1] != AUDIENCE:
        return Answer({"error": "invalid_grant", "error_description": "no such audience"}, 400)
    return Answer({"id_token": KEY.jwt(aud=AUDIENCE, iss="https://accounts.google.com")})


def metadata_server(asked: Asked) -> Answer:
    """https://cloud.google.com/compute/docs/instances/verifying-instance-identity"""
    flavor = (("Metadata-Flavor", "Google"),)
    if asked.headers.get("metadata-flavor") != "Google":
        return Answer("", 403, flavor)
    if asked.path == "/computeMetadata/v1/instance/service-accounts/default/identity":
        return Answer(KEY.jwt(aud=asked.query["audience"]), 200, flavor)
    if asked.path == "/computeMetadata/v1/instance/service-accounts/default/":
        return Answer({"email": "machine@p.example", "scopes": []}, 200, flavor)
    return Answer("", 200, flavor)


def test_google_by_a_service_accounts_key(tmp_path: Path) -> None:
    with answering(of_google) as url:
        file = key_file(tmp_path, f"{url}/token")
        token, source, expires = ask(
            "google-iap", audience=AUDIENCE, credentials_file=str(file)
        )
        assert token.count(".") == 2
        assert source == "google-iap: me@p.example"
        assert int(expires) == pytest.approx(time.time() + 3600, abs=60)
        by_variable = {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}
        assert ask("google-iap", by_variable, audience=AUDIENCE)[1] == "google-iap: me@p.example"
        kind, text = ask("google-iap", audience="others", credentials_file=str(file))
    assert kind == "SignInError"
    assert text.startswith(f"google-iap: {file}: no id token for others: ")
    assert text.endswith("; correct 'audience' or the key")


def test_google_by_the_metadata_server() -> None:
    with answering(metadata_server) as url:
        host = {"GCE_METADATA_HOST": url.removeprefix("http://"), "GCE_METADATA_IP": url[7:]}
        token, source, _ = ask("google-iap", host, audience=AUDIENCE)
    assert token.count(".") == 2
    assert source == "google-iap: machine@p.example"


def test_google_without_a_key(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(f'{{"type": "service_account", "private_key": "{SECRET}"}}')
    for file, says in ((tmp_path / "none", "No such file"), (broken, "no service account's key")):
        kind, text = ask("google-iap", audience=AUDIENCE, credentials_file=str(file))
        assert kind == "CredentialError"
        assert says in text
        assert SECRET not in text
    kind, text = ask("google-iap", {"NO_GCE_CHECK": "true"}, audience=AUDIENCE)
    assert (kind, text[-24:]) == ("CredentialError", "; set 'credentials_file'")


# -- Azure

SCOPE = "api://mlflow/.default"


def of_entra(asked: Asked) -> Answer:
    """https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-client-creds-grant-flow"""
    here = f"https://{asked.headers['host']}"
    if asked.path == "/tenant/v2.0/.well-known/openid-configuration":
        return Answer({
            "issuer": f"{here}/tenant/v2.0", "token_endpoint": f"{here}/tenant/oauth2/v2.0/token",
            "authorization_endpoint": f"{here}/tenant/oauth2/v2.0/authorize",
        })  # fmt: skip
    wanted = {"grant_type": "client_credentials", "client_id": "app", "client_secret": SECRET}
    if asked.path != "/tenant/oauth2/v2.0/token" or not wanted.items() <= asked.form.items():
        text = "AADSTS7000215: Invalid client secret provided."
        return Answer({"error": "invalid_client", "error_description": text}, 401)
    return Answer({"access_token": "of-entra", "expires_in": 3599, "token_type": "Bearer"})


def managed_identity(asked: Asked) -> Answer:
    """https://learn.microsoft.com/en-us/azure/app-service/overview-managed-identity#rest-endpoint-reference"""
    good = asked.headers.get("x-identity-header") == SECRET and asked.path == "/msi/token"
    if not good or asked.query.get("resource") != "api://mlflow":
        return Answer({"statusCode": 400, "message": "wrong"}, 400)
    return Answer({
        "access_token": "of-the-machine", "expires_on": str(int(time.time()) + 7200),
        "resource": "api://mlflow", "token_type": "Bearer",
    })  # fmt: skip


def test_azure_by_an_applications_secret(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    trusted = {"REQUESTS_CA_BUNDLE": str(certificate)}
    given = {"scope": SCOPE, "tenant_id": "tenant", "client_id": "app"}
    with answering(of_entra, (certificate, key)) as url:
        given["authority"] = url
        token, source, expires = ask("azure", trusted, client_secret=SECRET, **given)
        assert (token, source) == ("of-entra", "azure: client secret")
        assert int(expires) == pytest.approx(time.time() + 3600, abs=60)
        kind, text = ask("azure", trusted, client_secret="wrong-secret-of-it", **given)
        assert kind == "SignInError"
        assert "AADSTS7000215: Invalid client secret provided" in text
        assert "wrong-secret-of-it" not in text
    kind, text = ask("azure", trusted, client_secret=SECRET, **given)
    assert (kind, text[:18]) == ("UnreachableError", "azure: no answer: ")


def test_azure_by_the_identity_of_the_machine() -> None:
    with answering(managed_identity) as url:
        env = {"IDENTITY_ENDPOINT": f"{url}/msi/token", "IDENTITY_HEADER": SECRET}
        token, source, expires = ask("azure", env, scope=SCOPE)
    assert (token, source) == ("of-the-machine", "azure: its own chain")
    assert int(expires) == pytest.approx(time.time() + 7200, abs=60)


# -- Oracle


def signed_by_me(asked: Asked) -> bool:
    """https://docs.oracle.com/en-us/iaas/Content/API/Concepts/signingrequests.htm"""
    given = asked.headers.get("authorization", "")
    parts = dict(re.findall(r'(\w+)="([^"]*)"', given))
    if not given.startswith("Signature ") or parts.get("keyId") not in ("t/u/f", "ST$a-token"):
        return False
    needed = ["date", "(request-target)", "host"]
    if asked.method in ("PUT", "POST"):
        needed += ["content-length", "content-type", "x-content-sha256"]
        digest = base64.b64encode(hashlib.sha256(asked.body).digest()).decode()
        if asked.headers.get("x-content-sha256") != digest:
            return False
    names = parts["headers"].split()
    known = {**asked.headers, "(request-target)": f"{asked.method.lower()} {asked.target}"}
    text = "\n".join(f"{name}: {known[name]}" for name in names)
    try:
        KEY.private.public_key().verify(
            base64.b64decode(parts["signature"]), text.encode(), padding.PKCS1v15(),
            hashes.SHA256(),
        )  # fmt: skip
    except InvalidSignature:
        return False
    return set(names) >= set(needed)


@pytest.fixture
def oci_config(tmp_path: Path) -> Path:
    pem = KEY.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "token").write_text("a-token")
    config = tmp_path / "config"
    fingerprint = ":".join(["0a"] * 16)
    user = f"user=ocid1.user.oc1..a\nfingerprint={fingerprint}\ntenancy=ocid1.tenancy.oc1..a\n"
    common = f"region=us-ashburn-1\nkey_file={tmp_path}/key.pem\n"
    config.write_text(
        f"[DEFAULT]\n{user}{common}[SESSION]\nsecurity_token_file={tmp_path}/token\n"
    )
    config.chmod(0o600)
    return config


@pytest.fixture
def server() -> Iterator[tuple[str, list[Asked]]]:
    seen: list[Asked] = []

    def answer(asked: Asked) -> Answer:
        seen.append(asked)
        key_id = f"ocid1.tenancy.oc1..a/ocid1.user.oc1..a/{':'.join(['0a'] * 16)}"
        given = asked.headers.get("authorization", "").replace(key_id, "t/u/f")
        asked = Asked(asked.method, asked.target, {**asked.headers, "authorization": given},
                      asked.body)  # fmt: skip
        return Answer({}, 200 if signed_by_me(asked) else 401)

    with answering(answer) as url:
        yield url, seen


def oci_auth(url: str, **settings: str) -> RequestAuth:
    env = {f"MLFLOW_EXEC_AUTH_{name.upper()}": value for name, value in settings.items()}
    return RequestAuth(find_sign_ins({"MLFLOW_EXEC_AUTH": "oci", **env}), lambda: url)


@pytest.mark.parametrize(
    "more", [{}, {"principal": "session", "profile": "SESSION"}], ids=["user", "session"]
)
@pytest.mark.parametrize(
    "body", [None, b"bytes", '{"a": "json"}', io.BytesIO(b"x" * 100_000)],
    ids=["none", "bytes", "text", "file"],
)  # fmt: skip
def test_oracle_signs_each_request_with_its_body(
    oci_config: Path, server: tuple[str, list[Asked]], body: Any, more: dict[str, str]
) -> None:
    auth = oci_auth(server[0], config_file=str(oci_config), **more)
    if isinstance(body, io.BytesIO):
        body.seek(0)
    method = "GET" if body is None else "PUT"
    answer = requests.request(method, f"{server[0]}/a%20b?q=1", data=body, auth=auth)
    assert answer.status_code == 200
    assert len(server[1]) == 1
    assert requests.get(server[0], auth=auth).status_code == 200


def test_oracle_signs_a_refused_request_anew_and_no_other_hosts(
    oci_config: Path, server: tuple[str, list[Asked]]
) -> None:
    auth = oci_auth(server[0], config_file=str(oci_config), principal="session",
                    profile="SESSION")  # fmt: skip
    requests.get(server[0], auth=auth)
    (oci_config.parent / "token").write_text("another-token-that-is-not-known")
    auth = oci_auth(server[0], config_file=str(oci_config), principal="session",
                    profile="SESSION")  # fmt: skip
    assert requests.put(server[0], data=b"x", auth=auth).status_code == 401
    first, again = server[1][-2:]
    assert first.body == again.body == b"x"
    with guarded(lambda _: True) as other:
        requests.get(other.url, auth=auth)
        assert other.sent == [None]
        assert "x-content-sha256" not in other.seen[0].headers


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"config_file": "/none"}, r"Could not find config file at /none.*; correct 'config_file'"),
        ({"profile": "NONE"}, "correct 'config_file'"),
        ({"principal": "session"}, "it has no security_token_file; run oci session authenticate"),
        ({"principal": "resource"}, "oci: no resource principal: "),
    ],
)
def test_what_goes_wrong_at_oracle(
    oci_config: Path, settings: dict[str, str], says: str
) -> None:
    with pytest.raises(MlflowExecError, match=says) as told:
        requests.get("https://a", auth=oci_auth("https://a", **{"config_file": str(oci_config),
                                                                **settings}))  # fmt: skip
    assert "PRIVATE KEY" not in str(told.value)


def test_what_is_not_installed_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("azure", "azure.identity", "mlflow_exec.auth.azure"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "azure", None)
    env = {"MLFLOW_EXEC_AUTH": "azure", "MLFLOW_EXEC_AUTH_SCOPE": SCOPE}
    with pytest.raises(MissingExtraError, match=r"pip install 'mlflow-exec\[entra\]'"):
        find_sign_ins(env)[0].flow()
