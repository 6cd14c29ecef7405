"""Results to report: of a real scan, and made up ones that are as bad as data can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd

from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.findings import CheckSummary, Finding, Plot, Result, Severity, Skipped
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.plots import slice_plot
from mlflow_exec.evaluation.scan import scan
from mlflow_exec.evaluation.settings import ScanSettings
from mlflow_exec.evaluation.slices import Condition, Slice
from tests.unit.evaluation.planted import is_rich, people

# With half a pair of surrogates besides, which a column of pandas cannot hold but a text can.
HOSTILE = "<script>alert('x')</script>\"&\x00\u202e" + "日本語🦆" + "y" * 5_000
_VOID = {"meta", "br", "link", "img", "input", "hr"}


@cache
def faulty() -> Result:
    """A scan of a model that errs in two slices, and asks what else is in the batch."""
    features = people(3_000, 3)
    rng = np.random.default_rng(3)
    tall = (features["height"] > 180).to_numpy()
    wrong = rng.random(len(features)) < np.where(tall, 0.45, 0.05)
    wrong |= (rng.random(len(features)) < 0.15) & (features["city"] == "Jena").to_numpy()
    labels = np.where(wrong, 1 - is_rich(features), is_rich(features))

    def predict(rows: pd.DataFrame) -> np.ndarray[Any, Any]:
        return np.asarray(rows["income"] > (22_000 if len(rows) > 1 else 20_000)).astype(int)

    data = Data(features, labels)
    settings = ScanSettings(checks={"performance_bias": {"pairs": False}, "batch_dependence": {}})
    return scan(data, Model(predict, data), settings)


def hostile(n_findings: int = 3, n_examples: int = 5, n_columns: int = 4) -> Result:
    """A result whose names and values are meant to break a page."""
    rng = np.random.default_rng(0)
    names = [f"{HOSTILE}{n}" for n in range(n_columns)]
    frame = pd.DataFrame(rng.normal(size=(200, n_columns)), columns=names)
    frame[names[0]] = HOSTILE
    frame.loc[:100, names[0]] = "plain"
    data = Data(frame)
    mask = (data.frame[names[0]] == HOSTILE).to_numpy()
    slice_ = Slice((Condition(data.columns[0].name, value=HOSTILE, kind="category"),), mask)
    findings = tuple(
        Finding(
            "a_check", Severity.MEDIUM, f"{n}: {HOSTILE}\ud800", HOSTILE, float("nan"), 0.5,
            (float("-inf"), 0.2), 0.01, 0.02, slice_, slice_.size, tuple(range(n_examples)),
            {HOSTILE: HOSTILE, "none": None, "list": [1]},
            slice_plot(data, slice_, mask.astype(float), HOSTILE), HOSTILE,
        )
        for n in range(n_findings)
    )  # fmt: skip
    return result_of(
        findings, samples={
            n: dict.fromkeys(names, HOSTILE[:200]) | {"(prediction)": "nan"}
            for n in range(n_examples)
        },
        skipped=(Skipped("other", HOSTILE, False),), n_columns=n_columns, model=HOSTILE,
    )  # fmt: skip


def result_of(findings: Sequence[Finding] = (), **fields: Any) -> Result:
    """A result with these findings, and nothing else that matters."""
    given: dict[str, Any] = {
        "findings": tuple(findings), "checks": (CheckSummary("a_check", "A check", 3, 0.1),),
        "skipped": (), "task": "classification", "n_rows": 200, "n_columns": 4, "metrics": {},
        "seed": 0, "alpha": 0.05, "duration_s": 1.0, "versions": {"python": "3"},
    }  # fmt: skip
    return Result(**given | fields)


def drawing(kind: str, x: Sequence[Any], highlighted: Sequence[int] = (), **series: Any) -> Finding:
    """A finding with a plot."""
    plot = Plot(kind, "x", "y", tuple(x), series, tuple(highlighted), 0.3)
    return Finding("a_check", Severity.MINOR, kind, "ece", 0.2, plot=plot)


@dataclass
class Element:
    """A part of a page."""

    name: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text in it."""
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def all(self, name: str = "", class_: str = "") -> list[Element]:
        """The elements in it of that name and that class, in the page's order."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                classes = (child.attributes.get("class") or "").split()
                if name in ("", child.name) and (not class_ or class_ in classes):
                    found.append(child)
                found += child.all(name, class_)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        closed = self.open.pop()
        assert closed.name == tag, f"</{tag}> closes <{closed.name}>"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(html: str) -> Element:
    """The page; fails where something is not closed, or twice."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"not closed: {[element.name for element in reader.open[1:]]}"
    return reader.open[0]
