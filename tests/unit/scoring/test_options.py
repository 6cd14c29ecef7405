"""Options travel as JSON, and wrong ones are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_exec.scoring.__main__ import chosen, parser
from mlflow_exec.scoring.options import ENVIRONMENT_VARIABLE, OptionsError, ScoringOptions


def test_options_come_back_from_their_json() -> None:
    options = ScoringOptions("models:/iris/3", name="iris", token_env="T", batch_max_rows=8)
    assert ScoringOptions.from_json(options.to_json()) == options
    environ = {ENVIRONMENT_VARIABLE: options.to_json()}
    assert ScoringOptions.from_environment(environ) == options


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be a JSON object"),
        ('{"model_uri": "m", "tokn": 1}', "unknown tokn; known are model_uri, name"),
        ("{}", "model_uri: is missing"),
        ('{"model_uri": ""}', "model_uri: is empty"),
        ('{"model_uri": "m", "timeout_s": "9"}', "timeout_s: must be float; given: '9'"),
        ('{"model_uri": "m", "max_concurrent": true}', "max_concurrent: must be int; given: True"),
        ('{"model_uri": "m", "max_concurrent": 0}', "max_concurrent: must be at least 1; given: 0"),
        ('{"model_uri": null}', "model_uri: must be str; given: None"),
    ],
)
def test_wrong_options_are_refused_by_name(text: str, what: str) -> None:
    with pytest.raises(OptionsError, match=what):
        ScoringOptions.from_json(text)


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(OptionsError, match="MLFLOW_EXEC_SCORING: is not set"):
        ScoringOptions.from_environment({})


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def options(*flags: str) -> Any:
        return chosen(parser().parse_args(flags))

    assert options("--model-uri", "m", "--timeout-s", "2", "--no-warmup") == ScoringOptions(
        "m", timeout_s=2.0, warmup=False
    )
    with pytest.raises(OptionsError, match="model_uri: is empty"):
        options()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, ScoringOptions("n", timeout_s=3.0).to_json())
    assert options() == ScoringOptions("n", timeout_s=3.0)
    assert options("--model-uri", "m") == ScoringOptions("m", timeout_s=3.0)
