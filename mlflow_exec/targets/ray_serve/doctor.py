"""What ``mlflow-exec doctor`` finds out about Serve on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from mlflow_exec.clients.ray_serve import ServeClient, server_of
from mlflow_exec.errors import AccessDeniedError, ClusterError
from mlflow_exec.reports import Finding
from mlflow_exec.targets.ray_serve.document import is_running


def findings(client: ServeClient) -> Iterator[Finding]:
    """Yield what is right and what is missing, the most basic first."""
    try:
        version = client.version()
        yield Finding(True, "cluster", f"{client.address}, Ray {version.get('ray_version')}")
        details = client.applications()
    except AccessDeniedError as error:
        yield Finding(False, "token", str(error), "Set token_file or RAY_AUTH_TOKEN.")
        return
    except ClusterError as error:
        yield Finding(False, "cluster", str(error), "Check the address and that Ray runs there.")
        return
    applications = details.get("applications") or {}
    if not is_running(details):
        yield Finding(True, "serve", "does not run yet; the first deployment starts it")
        return
    options = details["http_options"]
    where = f"{options.get('host')}:{options.get('port')}"
    yield Finding(True, "serve", f"{len(applications)} applications behind {where}")
    yield _proxy(f"http://{urlsplit(client.address).hostname}:{options.get('port')}")


def _proxy(url: str) -> Finding:
    """Say which proxy answers: Serve's own names its server, HAProxy does not."""
    try:
        server = server_of(f"{url}/-/healthz")
    except ClusterError as error:
        way = "Reach the machine of the dashboard, or that of another proxy, on that port."
        return Finding(False, "proxy", str(error), way)
    if "uvicorn" not in server:
        return Finding(True, "proxy", "HAProxy")
    way = (
        "HAProxy passes on many times as many requests: set RAY_SERVE_ENABLE_HA_PROXY=1 and "
        "RAY_SERVE_THROUGHPUT_OPTIMIZED=1 in the environment of 'ray start', if it knows them."
    )
    return Finding(True, "proxy", "Serve's own, in Python", way)
