"""The page of the schemes of artifact URIs, as `docs/generate.py` writes it."""

from __future__ import annotations

from mlflow_exec.schemes import CAPABILITIES, SCHEMES


def scheme_page(begin: str, end: str) -> str:
    """Return the page, with these marks around what is generated."""
    lines = [
        "# Schemes of artifact URIs",
        "",
        begin,
        "",
        "| scheme | system | example | extra | options | credentials from |",
        "|---|---|---|---|---|---|",
    ]
    for scheme in SCHEMES:
        options = ", ".join(f"`{key}`" for key in ("cred", *scheme.options))
        sources = ", ".join(f"{name}: `{'`, `'.join(v)}`" for name, v in scheme.environment)
        extra = f"`{scheme.extra}`" if scheme.extra else "none"
        cells = (f"`{scheme.name}`", scheme.title, f"`{scheme.example}`", extra, options)
        lines.append(f"| {' | '.join(cells)} | {sources or 'none'} |")
    lines += [
        "",
        "A file is there as a whole or not at all, and can be deleted, everywhere. Besides:",
        "",
        "| scheme | compared | a file is replaced | goes on after a break | folders "
        "| signed URLs |",
        "|---|---|---|---|---|---|",
    ]
    names = [scheme.name for scheme in SCHEMES]
    for scheme in SCHEMES:
        can = CAPABILITIES[scheme.store]
        folders = "yes" if can.folders else "only names with `/`"
        which = f", {scheme.title}" if names.count(scheme.name) > 1 else ""
        cells = (f"`{scheme.name}`{which}", can.checksum, can.replaces, can.parts, folders)
        lines.append(f"| {' | '.join(cells)} | {can.signed_urls or 'no'} |")
    lines += ["", end, "", "How they are read, and what holds: [artifacts](artifacts.md)."]
    return "\n".join(lines) + "\n"
