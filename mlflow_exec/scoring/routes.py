"""Where the requests of an endpoint go: weights, sticky keys, shadows. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any


@dataclass(frozen=True)
class Routes:
    """Which deployments answer for an endpoint.

    Attributes:
        number: Of the revision of the endpoint that this is.
        weights: The share of the requests that each variant answers, in proportion to all of
            them; 0 is none.
        shadows: The percentage of the requests of which each of these gets a copy, too. Its
            answers are compared and dropped.
        sticky_header: Requests with the same value of this header are answered by the same
            variant, as long as the weights stay; None: each by itself.
    """

    number: int
    weights: Mapping[str, float]
    shadows: Mapping[str, float] = field(default_factory=dict)
    sticky_header: str | None = None

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_data(cls, data: Any) -> Routes:
        """Read back what `to_json` wrote, once it is parsed; keys of later versions are ignored.

        Raises:
            ValueError: It is not that of routes.
        """
        try:
            found = cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})
            shares = [*found.weights.items(), *found.shadows.items()]
            right = all(type(n) is str and type(s) in (int, float) and s >= 0 for n, s in shares)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not routes: {error}; {str(data)[:80]!r}") from error
        if not right or type(found.sticky_header) not in (str, type(None)):
            raise ValueError(f"not routes: {str(data)[:80]!r}")
        return found


class Turns:
    """Gives each name its share of the turns: exactly, and evenly mixed.

    Smooth weighted round-robin (https://github.com/nginx/nginx/commit/52327e0627f4): after as many
    turns as all weights together each name has had just as many as its weight.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = {name: weight for name, weight in weights.items() if weight > 0}
        self._total = sum(self._weights.values())
        self._due = dict.fromkeys(self._weights, 0.0)

    def next(self) -> str | None:
        """Return whose turn it is; None where nobody has a weight."""
        if not self._due:
            return None
        for name, weight in self._weights.items():
            self._due[name] += weight
        chosen = max(self._due, key=self._due.__getitem__)
        self._due[chosen] -= self._total
        return chosen


class Choice:
    """Chooses by routes."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self._turns = Turns(routes.weights)
        # Turns of their own, so that whoever asks how it is takes none of a prediction's.
        self._other_turns = Turns(routes.weights)
        self._due: dict[tuple[str, str], float] = {}

    def variant(self, key: bytes | None, *, predicts: bool = True) -> str | None:
        """Return who answers the next request; None where nobody does.

        Args:
            key: The value of the sticky header; None where the request has none.
            predicts: Whether it is a prediction.
        """
        if key is not None:
            return _of_key(key, self.routes.weights)
        return (self._turns if predicts else self._other_turns).next()

    def shadows(self, variant: str) -> list[str]:
        """Return who gets a copy of a request that a variant has answered.

        Of the requests of each variant it is the same share.
        """
        chosen = []
        for name, percent in self.routes.shadows.items():
            due = self._due.get((name, variant), 0.0) + percent
            if due >= 100:
                due -= 100
                chosen.append(name)
            self._due[name, variant] = due
        return chosen


def _of_key(key: bytes, weights: Mapping[str, float]) -> str | None:
    """Return the variant of a key: by the weights, and stable as far as they are.

    Weighted rendezvous hashing: a change of weights moves only keys to the variants that have won.
    (https://www.snia.org/sites/default/files/SDC15_presentations/dist_sys/Jason_Resch_New_Consistent_Hashings_Rev.pdf)
    """
    best, best_score = None, math.inf
    for name, weight in weights.items():
        if weight > 0:
            digest = blake2b(key + b"\0" + name.encode(), digest_size=8).digest()
            share = (int.from_bytes(digest, "big") + 1) / 2**64
            score = -math.log(share) / weight
            if best is None or score < best_score:
                best, best_score = name, score
    return best
