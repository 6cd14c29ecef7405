"""Let atheris look for what breaks a law of `Location`; options as libFuzzer's."""

from __future__ import annotations

import sys

import atheris


def main() -> None:
    """Fuzz until something breaks, or as long as the options say."""
    with atheris.instrument_imports(include=["mlflow_exec.uris", "mlflow_exec.credentials"]):
        import mlflow_exec.uris  # noqa: F401
    from tests.fuzz.location import check

    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
