"""What a scan finds, and its result as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mlflow_exec.evaluation.slices import Slice
from mlflow_exec.evaluation.verdicts import Verdict, verdict_metrics

# Of a value, for people: versions of pandas write NaN, None, NaT or <NA>, each where it likes.
MISSING = "(missing)"

class Severity(Enum):
    """How bad a finding is; `rank` sorts the worst first.

    MAJOR: do not serve this model before somebody looked. MEDIUM: look at it. MINOR: good to know.
    """

    MAJOR = "major"
    MEDIUM = "medium"
    MINOR = "minor"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)

    @property
    def lowered(self) -> Severity:
        """The next less bad one; MINOR stays."""
        return list(Severity)[min(self.rank + 1, len(Severity) - 1)]


def severity_of(certain: float, medium: float, major: float) -> Severity:
    """Return the severity of an effect by that part of it which is certain.

    Args:
        certain: The bound of its confidence interval that is nearer to no effect.
        medium: From which on it is MEDIUM; below it is MINOR.
        major: From which on it is MAJOR.
    """
    if certain >= major:
        return Severity.MAJOR
    return Severity.MEDIUM if certain >= medium else Severity.MINOR


@dataclass(frozen=True)
class Plot:
    """What the report draws for a finding: a few points of one or more series, no pictures.

    Attributes:
        kind: ``bars`` (one value per label), ``line`` (y over x) or ``scatter``.
        x_title: What the x axis shows, with its unit.
        y_title: What the y axis shows, with its unit.
        x: Labels of bars, or numbers.
        series: Name of a series -> its y values, as long as `x`; NaN is a gap.
        highlighted: Positions in `x` that belong to the finding.
        reference: A y value drawn as a horizontal line, such as that of all rows.
    """

    kind: str
    x_title: str
    y_title: str
    x: tuple[str | float, ...]
    series: Mapping[str, tuple[float, ...]]
    highlighted: tuple[int, ...] = ()
    reference: float | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with the model or its data.

    Attributes:
        check: Name of the check that found it.
        severity: How bad it is.
        title: One sentence for people, with the figures: what is wrong, where.
        metric: What `figure` and `compared_to` measure, as a stable name (``accuracy``).
        figure: Its value where the fault is.
        compared_to: Its value elsewhere, or what it should be at most; None where there is none.
        interval: Confidence interval of the effect (of `figure`, where there is no
            `compared_to`; else of the difference), at 1 - alpha, after a search for all that was
            searched; None where it is no estimate.
        p_value: Of the check's test, corrected for the search where it searched; None where
            one occurrence is proof enough (then it always stays).
        adjusted_p: Filled in by the scan: Benjamini-Hochberg over all findings of the check.
        slice: The rows that it is about; None where it is about all.
        size: How many rows that are.
        examples: Positions of a few of the worst rows, the worst first; at most 5.
        details: More figures, by stable names; JSON values only.
        plot: What to draw.
        advice: One sentence: what one can do about it.
    """

    check: str
    severity: Severity
    title: str
    metric: str
    figure: float
    compared_to: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    adjusted_p: float | None = None
    slice: Slice | None = None
    size: int = 0
    examples: tuple[int, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    plot: Plot | None = None
    advice: str = ""


@dataclass(frozen=True)
class Skipped:
    """A check that was not run, or not to its end, and why.

    Attributes:
        check: Its name.
        reason: A sentence for people.
        expected: Whether that is as it should be (it does not apply to this model or data, or was
            switched off); False where something failed or the time was over.
    """

    check: str
    reason: str
    expected: bool


@dataclass(frozen=True)
class CheckSummary:
    """What became of one check that was run.

    Attributes:
        name: Its name.
        title: Its title for people.
        n_tested: How many findings were tested, before those that could be chance were left out.
        duration_s: How long it took.
    """

    name: str
    title: str
    n_tested: int
    duration_s: float


@dataclass(frozen=True)
class Result:
    """The result of a scan.

    Attributes:
        findings: The worst first.
        checks: Those that were run.
        skipped: Those that were not, or not to their end.
        task: ``classification`` or ``regression``.
        n_rows: Rows that were scanned.
        n_columns: Features that the data has.
        metrics: Of the model on all rows, such as ``accuracy``.
        seed: With which it gives the same result again.
        alpha: The level of the tests.
        duration_s: How long all of it took.
        versions: Name -> version of what computed it.
        samples: Position of a row -> column -> value, for the examples of the findings.
        model: Which model it is, as whoever asked for the scan calls it; may be empty.
        data: Which data it is, in the same way.
        verdicts: Of the validations of the suite, in its order; empty where there is none.
    """

    findings: tuple[Finding, ...]
    checks: tuple[CheckSummary, ...]
    skipped: tuple[Skipped, ...]
    task: str
    n_rows: int
    n_columns: int
    metrics: Mapping[str, float]
    seed: int
    alpha: float
    duration_s: float
    versions: Mapping[str, str]
    samples: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    model: str = ""
    data: str = ""
    verdicts: tuple[Verdict, ...] = ()

    def count(self, severity: Severity, check: str | None = None) -> int:
        """Return how many findings have that severity, in all checks or in one."""
        return sum(
            f.severity is severity and (check is None or f.check == check) for f in self.findings
        )

    def scan_metrics(self) -> dict[str, float]:
        """Return the counts by their stable names, as they are logged to a run.

        ``scan/n_major``, ``scan/<check>/n_major`` and so on, for checks that were run, and those of
        the suite's validations.
        """
        counts: dict[str, float] = {}
        for severity in Severity:
            counts[f"scan/n_{severity.value}"] = float(self.count(severity))
            for check in self.checks:
                name = f"scan/{check.name}/n_{severity.value}"
                counts[name] = float(self.count(severity, check.name))
        unexpected = sum(not skipped.expected for skipped in self.skipped)
        counts |= {"scan/n_skipped": float(unexpected), "scan/duration_s": self.duration_s}
        return counts | verdict_metrics(self.verdicts)
