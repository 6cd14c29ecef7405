"""The docs: links lead somewhere, code compiles, configurations are accepted."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from mlflow_exec import registry
from mlflow_exec.reconciler_settings import ReconcilerSettings
from mlflow_exec.settings import Settings, parse_settings

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy_templates/**/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_in_the_docs_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S))
    for link in links:
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), f"{link}: no such heading"


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_docs_python_code_compiles() -> None:
    blocks = [
        (page, block)
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.S)
    ]
    assert blocks
    for page, block in blocks:
        ast.parse(block, filename=str(page))


def test_the_docs_json_code_is_a_configuration_that_is_accepted() -> None:
    blocks = [
        (page, backend, block)
        for page in PAGES
        for backend, block in re.findall(
            r"<!-- config: (\w+) -->\n```json\n(.*?)```", page.read_text("utf-8"), flags=re.S
        )
    ]
    assert blocks
    for page, backend, block in blocks:
        settings: type[Settings] = (
            ReconcilerSettings
            if backend == "reconciler"
            else registry.load(registry.backend(backend).settings)
        )
        parse_settings(settings, json.loads(block), str(page))
