"""Where the requests of an endpoint go, as users say it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, model_validator

from mlflow_exec.settings.fields import Settings

# https://www.rfc-editor.org/rfc/rfc9110#name-tokens
_TOKEN = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")


class Routing(Settings):
    """The routes of an endpoint."""

    weights: dict[str, Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]] = Field(
        description="The deployments that answer, each with its share: `{\"iris-1\": 90, "
        "\"iris-2\": 10}`. In proportion to all of them; 0 is none.",
    )
    shadows: dict[str, Annotated[float, Field(gt=0, le=100)]] = Field(
        default_factory=dict,
        description="Deployments that get a copy of so many percent of the requests, too: "
        "`{\"iris-3\": 100}`. Their answers are compared with those that were given, and dropped.",
    )
    sticky_header: str | None = Field(
        None,
        description="Requests with the same value of this header are answered by the same "
        "deployment; each by itself if null.",
    )

    @model_validator(mode="after")
    def _check(self) -> Routing:
        if not any(self.weights.values()):
            raise ValueError(
                f"weights: one deployment at least needs more than 0; given {self.weights}"
            )
        if both := sorted(name for name in self.shadows if self.weights.get(name)):
            raise ValueError(f"shadows: {both[0]!r} answers requests by its weight already")
        if self.sticky_header is not None and not _TOKEN.match(self.sticky_header):
            raise ValueError(f"sticky_header: no header's name: {self.sticky_header!r}")
        return self
