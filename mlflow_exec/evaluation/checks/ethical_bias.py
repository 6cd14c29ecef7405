"""Ethical bias: the model treats groups of people differently.

Groups are those of the sensitive features that the settings name; nobody but the user knows which
these are. Their rates are compared by fairlearn's metrics: demographic parity (how often a class is
predicted) and equalized odds (how often rightly and wrongly so). Besides, the model is asked again
with another group in the same row, and about texts with other words for people, as Giskard 2.19's
scan has it: the answer should not change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import numpy as np
import pandas as pd
from pydantic import Field

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Floats, Integers, Mask
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.data import Column, Kind
from mlflow_exec.evaluation.findings import Finding, severity_of
from mlflow_exec.evaluation.group_rates import Rates, groups_of, rates_of
from mlflow_exec.evaluation.outputs import Outputs, Task
from mlflow_exec.evaluation.plots import percent
from mlflow_exec.evaluation.properties import words_of
from mlflow_exec.evaluation.sampling import at_most
from mlflow_exec.evaluation.statistics import wilson
from mlflow_exec.evaluation.word_swaps import KINDS, has_words, swapped
from mlflow_exec.settings import Settings

# In names of columns; a hint only.
_SOUND_SENSITIVE = re.compile(
    r"(?:^|[^a-z])(?:sex|gender|age|race|ethnic\w*|religio\w*|nationality|citizen\w*|disab\w*|"
    r"marital\w*|orientation)(?:$|[^a-z])",
    re.IGNORECASE,
)
_MIN_CHANGED = 20  # Giskard's least number of rows
_MAX_SEARCHED = 20_000


class EthicalBiasSettings(Settings):
    """Settings of the check `ethical_bias`."""

    sensitive: tuple[str, ...] = Field(
        default=(),
        description="The columns that tell groups of people; numbers (an age) are cut in quarters.",
    )
    threshold: float = Field(
        default=0.1, gt=0, lt=1,
        description="MEDIUM where such a difference of rates between two groups is certain: "
        "differences within 0.1 pass as fair by AIF360 and Holistic AI.",
    )  # fmt: skip
    major: float = Field(
        default=0.2, gt=0, lt=1,
        description="MAJOR where so much is certain: the complement of the four fifths of the "
        "US guidelines on employee selection (29 CFR 1607.4), as a difference.",
    )  # fmt: skip
    min_group_rows: int = Field(
        default=30, gt=1, description="Smaller groups are left out: their rates say little."
    )
    swap_threshold: float = Field(
        default=0.05, gt=0, lt=1,
        description="MEDIUM where certainly so many answers change by a swap (Giskard: 5 %).",
    )  # fmt: skip
    swap_major: float = Field(
        default=0.1, gt=0, lt=1, description="MAJOR from there on (Giskard: 10 %)."
    )
    swap_change: float = Field(
        default=0.05, gt=0,
        description="An answer of a regression changes if it does so relative to itself "
        "(Giskard: 5 %).",
    )  # fmt: skip
    max_rows: int = Field(
        default=1_000, gt=0, description="So many rows are asked about again (Giskard: 1000)."
    )


class EthicalBias(Check[EthicalBiasSettings]):
    """Groups of people that are treated differently."""

    name = "ethical_bias"
    title = "Ethical bias"
    settings_class = EthicalBiasSettings

    def applies(self, context: Context) -> str | None:
        """It needs sensitive features, or texts and a model to ask."""
        if self.settings.sensitive:
            return None
        if context.data.of_kind(Kind.TEXT) and context.model.can_predict:
            return None
        sound = [c.name for c in context.data.columns if _SOUND_SENSITIVE.search(c.name)]
        hint = f" (by their names: {', '.join(sound[:5])}?)" if sound else ""
        return f"no sensitive features are named; set checks.{self.name}.sensitive{hint}"

    def run(self, context: Context) -> Iterator[Finding]:
        """Swap, then compare the groups."""
        columns = [context.data.column(name) for name in self.settings.sensitive]
        if context.model.can_predict:
            for column in columns:
                yield from self._other_groups(context, column)
            yield from self._other_words(context)
        if context.model.task is not Task.CLASSIFICATION:
            return  # Neither metric is defined for numbers.
        few = []
        for column in columns:
            groups, names = groups_of(column, self.settings.min_group_rows)
            if len(names) < 2:
                few.append(column.name)
            else:
                yield from self._groups(context, column, groups, names)
        if few:
            raise ScanError(
                f"ethical_bias: no two groups of {self.settings.min_group_rows} rows "
                f"(min_group_rows) are in {', '.join(few)}; name other columns, or give more rows"
            )

    def _groups(
        self, context: Context, column: Column, groups: Integers, names: tuple[str, ...]
    ) -> Iterator[Finding]:
        """Compare the rates of a class between groups."""
        if find_spec("fairlearn") is None:
            raise ScanError(
                "ethical_bias: the metrics of groups need fairlearn, which is not installed; "
                "install mlflow-exec[fair]"
            )
        codes, classes = context.model.outputs.codes, context.model.classes
        assert codes is not None, "a classification has codes"
        for code in range(len(classes))[1 if len(classes) == 2 else 0 :]:
            context.tick()
            context.progress(f"{column.name}, {classes[code]}")
            labels = None if context.model.labels is None else np.asarray(context.labels == code)
            rates = rates_of(np.asarray(codes == code), labels, groups, names, context.alpha)
            for rate in rates:
                yield self._between_groups(context, column, str(classes[code]), rate, groups)

    def _between_groups(
        self, context: Context, column: Column, label: str, rates: Rates, groups: Integers
    ) -> Finding:
        settings, certain = self.settings, rates.interval[0]
        severity = severity_of(certain, settings.threshold, settings.major)
        told = rates.by_labels
        if told is not None and severity_of(
            certain - told, settings.threshold, settings.major
        ).rank > severity.rank:  # fmt: skip
            severity = severity.lowered  # A perfect model would have it, too.
        return self.finding(
            severity=severity,
            title=f"{rates.title.format(label=label)} for {percent(rates.highest)} of those with "
            f"{column.name} {rates.names[rates.first]}, and for {percent(rates.lowest)} with "
            f"{rates.names[rates.last]}",
            metric=rates.metric, figure=rates.difference, compared_to=0.0,
            interval=rates.interval,
            # Below the threshold it is no finding, however certain.
            p_value=rates.p_value if rates.difference >= settings.threshold else 1.0,
            size=int((groups == rates.groups[rates.last]).sum()),
            details={"feature": column.name, "class": label, "difference_of_labels": told,
                     "rates": dict(zip(rates.names, rates.rates, strict=True))},
            plot=rates.plot(column.name, label),
            advice="Compare the rates with what the law and your users expect; fairlearn's "
            "ThresholdOptimizer and reductions train for parity.",
        )  # fmt: skip

    def _other_groups(self, context: Context, column: Column) -> Iterator[Finding]:
        """Ask about the same rows with another group."""
        values = column.categories[1]
        numeric = column.kind is Kind.NUMERIC
        if column.kind is Kind.OPAQUE or len(values) < 2 or (numeric and len(values) > 10):
            return
        rng = context.rng(f"{self.name}/{column.name}")
        taken = at_most(np.flatnonzero(column.categories[0] >= 0), self.settings.max_rows, rng)
        before, after = context.data.rows(taken), context.data.rows(taken)
        offset = rng.integers(1, len(values), len(taken))
        codes = (column.categories[0][taken] + offset) % len(values)
        # As the rows have them: values of `column` are converted.
        first = pd.Series(column.categories[0]).drop_duplicates()
        source = {code: position for position, code in first.items()}
        positions = np.array([source[code] for code in codes], dtype=np.int64)
        series = context.data.frame.iloc[:, column.position]
        after[column.name] = series.iloc[positions].array
        yield from self._changed(
            context, taken, before, after, f"another {column.name}", {"feature": column.name}
        )

    def _other_words(self, context: Context) -> Iterator[Finding]:
        """Ask about texts with other words for people."""
        for column in context.data.of_kind(Kind.TEXT):
            rng = context.rng(f"{self.name}/{column.name}")
            for kind, taken in self._rows_with_words(context, column).items():
                context.tick()
                context.progress(f"{column.name}, {kind}")
                before, after = context.data.rows(taken), context.data.rows(taken)
                swap, texts = swapped(kind, rng), []
                for text in column.values[taken]:
                    context.tick()
                    texts.append(swap(text))
                after[column.name] = pd.Series(texts, index=after.index, dtype=object)
                about = f"words for another {kind} in {column.name}"
                details = {"feature": column.name, "words": kind}
                yield from self._changed(context, taken, before, after, about, details)

    def _rows_with_words(self, context: Context, column: Column) -> dict[str, Integers]:
        """Return for each kind of words as many rows with some as are asked about."""
        rng = context.rng(f"{self.name}/{column.name}/rows")
        found: dict[str, list[int]] = {kind: [] for kind in KINDS}
        for position in rng.permutation(len(context.data))[:_MAX_SEARCHED]:
            context.tick()
            words = set(words_of(column.values[position] or ""))
            wanted = [k for k, rows in found.items() if len(rows) < self.settings.max_rows]
            for kind in wanted:
                if has_words(words, kind):
                    found[kind].append(int(position))
            if not wanted:
                break
        return {kind: np.sort(np.array(rows, dtype=np.int64)) for kind, rows in found.items()}

    def _changed(
        self, context: Context, taken: Integers, before: pd.DataFrame, after: pd.DataFrame,
        about: str, details: Mapping[str, object],
    ) -> Iterator[Finding]:  # fmt: skip
        """Count the answers that change; those of a model of chance do so without a swap."""
        if len(taken) < _MIN_CHANGED:
            return
        said, again, other = (context.model.predict(rows) for rows in (before, before, after))
        changed = self._differs(said, other) & ~self._differs(said, again)
        n_changed, n = int(changed.sum()), len(taken)
        settings, interval = self.settings, wilson(n_changed, n, context.alpha)
        if n_changed / n < settings.swap_threshold:
            return
        yield self.finding(
            severity=severity_of(interval[0], settings.swap_threshold, settings.swap_major),
            title=f"{percent(n_changed / n)} of the answers change with {about} ({n_changed} of "
            f"{n})",
            metric="share_of_changed_predictions", figure=n_changed / n, compared_to=0.0,
            interval=interval, size=n_changed,
            examples=tuple(int(position) for position in taken[changed][:5]), details=details,
            advice="Leave the feature out, or train with rows where it is swapped.",
        )  # fmt: skip

    def _differs(self, one: Outputs, other: Outputs) -> Mask:
        if one.codes is not None and other.codes is not None:
            return np.asarray(one.codes != other.codes)
        before: Floats = np.asarray(one.values, dtype=np.float64)
        change = np.abs(np.asarray(other.values, dtype=np.float64) - before)
        return np.asarray((change > 0) & (change >= self.settings.swap_change * np.abs(before)))
