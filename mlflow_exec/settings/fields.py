"""What settings are made of: quantities, and the class that refuses unknown keys."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

GIB = 1024**3
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_SUFFIXES = {"m": Decimal("0.001"), "": Decimal(1)}
_SUFFIXES |= {s: Decimal(1000) ** n for n, s in enumerate(["k", "M", "G", "T", "P"], start=1)}
_SUFFIXES |= {s: Decimal(1024) ** n for n, s in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi"], start=1)}


def parse_quantity(value: object) -> Decimal:
    """Read a number with an optional Kubernetes suffix (``500m``, ``4Gi``).

    Raises:
        ValueError: It is not one, or it is negative.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("a quantity is needed, such as 2, '500m' or '4Gi'")
    text = str(value).strip()
    number = text.rstrip("KMGTPkmi")
    try:
        amount = Decimal(number) * _SUFFIXES[text[len(number) :]]
    except (InvalidOperation, KeyError):
        raise ValueError("a quantity is needed, such as 2, '500m' or '4Gi'") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError("a quantity cannot be negative or infinite")
    return amount


Cpu = Annotated[float, BeforeValidator(lambda v: float(parse_quantity(v)))]
Bytes = Annotated[int, BeforeValidator(lambda v: int(parse_quantity(v)))]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Settings whose unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
