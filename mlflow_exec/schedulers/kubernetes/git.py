"""The clone of a project in an init container."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_exec.settings import KubernetesSettings

GIT_FOLDER = "/mlflow-exec-source"
# The clone is made at the pinned commit; the URI and the commit come as variables, so nothing of
# them is read by the shell as code.
_SCRIPT = """set -eu
if [ -f /mlflow-exec-git/ssh-privatekey ]; then
  hosts=/mlflow-exec-git/known_hosts
  check="-o StrictHostKeyChecking=accept-new"
  [ -f "$hosts" ] && check="-o UserKnownHostsFile=$hosts"
  export GIT_SSH_COMMAND="ssh -i /mlflow-exec-git/ssh-privatekey $check"
fi
if [ -f /mlflow-exec-git/password ]; then
  git config --global credential.helper '!f() {
    echo "username=$(cat /mlflow-exec-git/username)"
    echo "password=$(cat /mlflow-exec-git/password)"; }; f'
fi
# A server may say the password that it was given.
masked() {
  password="$(cat /mlflow-exec-git/password 2>/dev/null || true)"
  while IFS= read -r rest || [ -n "$rest" ]; do
    line=
    while [ "${#password}" -ge 6 ] && [ "${rest#*"$password"}" != "$rest" ]; do
      line="$line${rest%%"$password"*}***"
      rest="${rest#*"$password"}"
    done
    printf '%s\\n' "$line$rest"
  done
}
clone() {
  git config --global --add safe.directory '*' &&
  git init -q /mlflow-exec-source &&
  cd /mlflow-exec-source &&
  git remote add origin "$GIT_URI" &&
  # Not every server gives out a single commit; what else is wrong, the second one says.
  { git fetch -q --depth 1 origin "$GIT_COMMIT" 2>/dev/null || git fetch -q origin; } &&
  git checkout -q --detach "$GIT_COMMIT" &&
  git submodule update -q --init --recursive
}
{ clone 2>&1 || touch /tmp/failed; } | masked
[ ! -e /tmp/failed ]
"""


def git_container(
    source: Mapping[str, Any], settings: KubernetesSettings
) -> dict[str, Any] | None:
    """Return what the template needs for the container that clones; None if nothing is cloned."""
    if source.get("kind") != "git":
        return None
    return {
        "image": settings.git_image,
        "script": _SCRIPT,
        "secret": settings.git_secret,
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "GIT_URI", "value": str(source["uri"]).replace("$", "$$")},
            {"name": "GIT_COMMIT", "value": source["commit"]},
        ],
    }
