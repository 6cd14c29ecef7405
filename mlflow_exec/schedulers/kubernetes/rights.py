"""The rights in a namespace that the backend uses."""

from __future__ import annotations

# Every verb that the backend uses; the Role in the docs is this list.
RIGHTS = (
    ("batch", "jobs", "", ("create", "get", "list", "watch", "patch", "delete")),
    ("", "pods", "", ("get", "list", "watch")),
    ("", "pods", "log", ("get",)),
    ("", "events", "", ("list",)),
    ("", "configmaps", "", ("create", "get")),
    ("", "secrets", "", ("create", "get")),
)
