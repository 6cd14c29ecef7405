"""Kerberos tickets for an HTTP server: SPNEGO, with the first request.

https://www.rfc-editor.org/rfc/rfc4559. Our own rules for a 401 and for redirects hold here, too, so
it is gssapi that is asked, and not a library that answers 401 by itself.
"""

from __future__ import annotations

import base64
import time
from typing import Any

from requests import PreparedRequest

from mlflow_exec.auth.base import HEADER, Credential, Flow
from mlflow_exec.auth.hosts import Place
from mlflow_exec.auth.settings import KerberosSettings
from mlflow_exec.clients.hadoop_login import Login, kerberos_reason, load_gssapi
from mlflow_exec.errors import SignInError

_SPNEGO = "1.3.6.1.5.5.2"
_NO_SERVICE = "not found in Kerberos database"  # of MIT's library


class Ticket(Credential):
    """A ticket, of which each request gets an authenticator of its own.

    Args:
        held: What gssapi signs in with.
        service: The server's name; None for that of the request's host.
    """

    def __init__(self, held: Any, service: str | None) -> None:
        self._held = held
        self._service = service
        self.source = f"Kerberos ticket of {held.name}"
        self.expires_at_s = None if held.lifetime is None else time.time() + held.lifetime

    def put(self, request: PreparedRequest) -> None:
        """Make an authenticator for the request's host, and put it on the request."""
        gssapi = load_gssapi("kerberos")
        service = self._service or f"HTTP@{Place.of(str(request.url)).host}"
        try:
            context = gssapi.SecurityContext(
                name=gssapi.Name(service, gssapi.NameType.hostbased_service), creds=self._held,
                usage="initiate", mech=gssapi.OID.from_int_seq(_SPNEGO),
            )  # fmt: skip
            token = context.step()
        except gssapi.exceptions.GSSError as error:
            why = kerberos_reason(error)
            way = "run kinit again, or compare this machine's clock with the KDC's"
            if _NO_SERVICE in why:
                way = "name the server as Kerberos knows it by 'service'"
            raise SignInError(f"kerberos: no ticket for {service}: {why}; {way}") from error
        # Good once, so `hide` need not know it; it would keep one for each request.
        request.headers[HEADER] = f"Negotiate {base64.b64encode(token).decode('ascii')}"


class Kerberos(Flow):
    """The ticket that is in the cache now, or one of a keytab."""

    def __init__(self, settings: KerberosSettings) -> None:
        load_gssapi("kerberos")
        keytab = str(settings.keytab) if settings.keytab else None
        self._login = Login("", principal=settings.principal, keytab=keytab, kerberos=True)
        self._service = settings.service

    def credential(self) -> Ticket:
        """Look for the ticket; the KDC is asked only where one of a keytab is due."""
        gssapi = load_gssapi("kerberos")
        held = self._login.credentials()
        try:
            return Ticket(held, self._service)
        except gssapi.exceptions.GSSError as error:  # an expired one is found when it is looked at
            raise SignInError(f"kerberos: no valid ticket: {kerberos_reason(error)}; run kinit, or "
                              f"give 'principal' and 'keytab'") from error  # fmt: skip

    def instead_of(self, refused: Credential) -> Ticket:
        """Look again: somebody may have run kinit, and an authenticator is good only once."""
        return self.credential()
