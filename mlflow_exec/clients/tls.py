"""What TLS itself had to say of a connection that could not be made."""

from __future__ import annotations

import ssl

from mlflow_exec.errors import RejectedError

# The connection broke, which says nothing of the certificate.
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def tls_refusal(
    where: str, error: Exception, *, way_to_trust: str, way_to_plain: str
) -> RejectedError | None:
    """Return the error for a request that TLS has ended; None if it was something else.

    Args:
        where: Who was asked, for the message.
        error: What requests raised.
        way_to_trust: How to have the certificate accepted.
        way_to_plain: What to look at where the other side may speak plain HTTP.
    """
    tls = _tls_error(error)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return RejectedError(
            f"{where}: the certificate is not accepted: {tls.verify_message.rstrip('.')}; "
            f"{way_to_trust}"
        )
    if tls is not None and not isinstance(tls, _CUT):
        return RejectedError(f"{where}: no TLS connection can be made: {tls}; {way_to_plain}")
    return None


def _tls_error(error: BaseException | None) -> ssl.SSLError | None:
    """Return what TLS itself had to say, below what urllib3 and requests have made of it."""
    if error is None or isinstance(error, ssl.SSLError):
        return error
    return _tls_error(error.__cause__) or _tls_error(error.__context__)
