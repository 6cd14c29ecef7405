"""The flows by name: sorted data, imported only when one is used."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_exec.errors import ConfigError
from mlflow_exec.settings.reading import closest


@dataclass(frozen=True)
class FlowEntry:
    """One way to sign in.

    Attributes:
        name: What users type.
        title: What it is, for people.
        flow: ``module:Class``, called with its settings.
        settings: ``module:Class`` of these.
        extra: The extra of this package that installs what it needs; empty where it needs nothing.
    """

    name: str
    title: str
    flow: str
    settings: str
    extra: str = ""


_SETTINGS = "mlflow_exec.auth.settings"

FLOWS: tuple[FlowEntry, ...] = (
    FlowEntry(
        "azure", "a token of Microsoft Entra",
        "mlflow_exec.auth.azure:Azure", f"{_SETTINGS}:AzureSettings", "entra",
    ),
    FlowEntry(
        "basic-file", "a user and a password in files",
        "mlflow_exec.auth.files:BasicFile", f"{_SETTINGS}:BasicFileSettings",
    ),
    FlowEntry(
        "exec", "a token that a command prints",
        "mlflow_exec.auth.exec_command:ExecCommand", f"{_SETTINGS}:ExecSettings",
    ),
    FlowEntry(
        "google-iap", "an id token of Google",
        "mlflow_exec.auth.google_iap:GoogleIap", f"{_SETTINGS}:GoogleIapSettings", "google-iap",
    ),
    FlowEntry(
        "kerberos", "a Kerberos ticket (SPNEGO)",
        "mlflow_exec.auth.kerberos:Kerberos", f"{_SETTINGS}:KerberosSettings", "kerberos",
    ),
    FlowEntry(
        "oci", "requests signed as for Oracle's cloud",
        "mlflow_exec.auth.oci_signer:OciSigner", f"{_SETTINGS}:OciSettings", "oci",
    ),
    FlowEntry(
        "oidc", "a token of an OpenID Connect issuer",
        "mlflow_exec.auth.oidc:Oidc", f"{_SETTINGS}:OidcSettings",
    ),
    FlowEntry(
        "token-file", "a token in a file",
        "mlflow_exec.auth.files:TokenFile", f"{_SETTINGS}:TokenFileSettings",
    ),
)  # fmt: skip
assert [f.name for f in FLOWS] == sorted(f.name for f in FLOWS), "keep FLOWS sorted"


def flow_entry(name: str, where: str) -> FlowEntry:
    """Return the flow of that name.

    Args:
        name: What the user gave.
        where: What the message names as the place.

    Raises:
        ConfigError: There is none.
    """
    for entry in FLOWS:
        if entry.name == name:
            return entry
    known = [entry.name for entry in FLOWS]
    guess = closest(name, known)
    raise ConfigError(f"{where}: unknown flow {name!r}{guess}. Known: {', '.join(known)}")
