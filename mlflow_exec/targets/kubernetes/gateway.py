"""Traffic from outside by the Gateway API: an HTTPRoute, which splits by itself. Pure.

https://gateway-api.sigs.k8s.io/reference/spec/#httproute of v1.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import lcm
from typing import Any

from mlflow_exec.settings import KubernetesTargetSettings, Routing

ROUTE = "HTTPRoute"
_PORT = 80
# A weight is a whole number up to a million, and a share one of so many parts.
_MOST, _PARTS = 1_000_000, 100_000


def route_values(
    name: str, settings: KubernetesTargetSettings, routing: Routing | None
) -> dict[str, Any]:
    """Return what the template gets for the HTTPRoute of a deployment, or of an endpoint.

    Where requests need no key, the Gateway sends an endpoint's to the variants itself; else its
    own router has to choose.
    """
    if settings.gateway is None:
        return {"gateway": None}
    given = settings.gateway
    parent = {"name": given.name, "namespace": given.namespace, "sectionName": given.listener}
    rule: dict[str, Any] = {"backendRefs": [{"name": name, "port": _PORT}]}
    if routing is not None and routing.sticky_header is None:
        rule = {"backendRefs": _weighted(routing.weights)}
        if routing.shadows:
            rule["filters"] = [_mirror(shadow, pc) for shadow, pc in routing.shadows.items()]
    return {
        "gateway": {key: value for key, value in parent.items() if value is not None},
        "hostnames": given.hostnames,
        "route_rules": [rule],
    }


def _weighted(weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the backends, their weights as whole numbers in the same proportion."""
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    times = Fraction(lcm(*(weight.denominator for weight in exact.values())))
    if max(exact.values()) * times > _MOST:
        times = _MOST / max(exact.values())
    return [
        # Not none, where it is not none.
        {"name": name, "port": _PORT, "weight": max(round(weight * times), int(weight > 0))}
        for name, weight in exact.items()
    ]


def _mirror(name: str, percent: float) -> dict[str, Any]:
    share: dict[str, Any] = {"percent": int(percent)}
    if percent != int(percent):
        parts = max(round(percent * _PARTS / 100), 1)
        share = {"fraction": {"numerator": parts, "denominator": _PARTS}}
    backend = {"name": name, "port": _PORT}
    return {"type": "RequestMirror", "requestMirror": {"backendRef": backend, **share}}
