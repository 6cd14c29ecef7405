#!/bin/sh
# install.sh VENV EXTRAS [GROUP]: makes the virtual environment where it is missing and installs
# this checkout into it, by uv. $PYTHON names the interpreter, $CONSTRAINTS the file of versions.
set -eu
venv=$1 extras=$2 group=${3:-} constraints=${CONSTRAINTS:-constraints.txt}

say() { printf '%s\n' "$*" >&2; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        if new_enough "$PYTHON"; then command -v "$PYTHON"; return; fi
        say "setup: PYTHON=$PYTHON is not a Python of 3.10 or newer."
        return 1
    fi
    for name in python3 python3.12 python3.11 python3.13 python3.10; do
        if new_enough "$name"; then command -v "$name"; return; fi
    done
    found=none
    if command -v python3 >/dev/null; then found=$(python3 --version 2>&1); fi
    say "setup: Python 3.10 or newer is missing; found: $found."
    say "Install it (Debian, Ubuntu: apt-get install python3 python3-venv), or name one:" \
        "make PYTHON=/path/to/python3.12"
    return 1
}

if [ ! -x "$venv/bin/python" ] || ! new_enough "$venv/bin/python"; then
    python=$(find_python)
    say "setup: making $venv with $python"
    if command -v uv >/dev/null; then
        uv venv --quiet --allow-existing --python "$python" "$venv"
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        say "setup: $python has no venv module." \
            "Install it (Debian, Ubuntu: apt-get install python3-venv), or install uv."
        exit 1
    else
        "$python" -m venv "$venv"
    fi
fi

say "setup: installing mlflow-exec[$extras]${group:+ and what its $group group needs} (minutes at first)"
set -- --quiet --constraint "$constraints" --editable ".[$extras]"
if [ -n "$group" ]; then set -- "$@" --group "$group"; fi
# uv installs in a tenth of pip's time; in the environment, it also builds those of the jobs there.
if [ ! -x "$venv/bin/uv" ]; then
    if command -v uv >/dev/null; then
        uv pip install --quiet --python "$venv/bin/python" --constraint "$constraints" uv
    else
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            --constraint "$constraints" uv
    fi
fi
if "$venv/bin/uv" pip install --python "$venv/bin/python" "$@"; then exit 0; fi
say "setup: uv failed; trying pip, which reads this machine's pip configuration"
# Dependency groups came with pip 25.1.
"$venv/bin/python" -m ensurepip --upgrade >/dev/null 2>&1 || true
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
exec "$venv/bin/python" -m pip install --disable-pip-version-check "$@"
