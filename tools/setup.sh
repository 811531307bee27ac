#!/usr/bin/env bash
# Makes .venv with everything that `make demo` and `make test` need, from nothing but a shell and a network.
# PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

runs_our_python() { # Debian leaves ensurepip out of python3, and pyenv has names that lead nowhere: try it, don't look.
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate candidates=(python3.11 python3.12 python3 python3.13 python3.14)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for candidate in "${candidates[@]}"; do
        if runs_our_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

if ! runs_our_python .venv/bin/python; then
    if ! python=$(find_python) && [ -z "${PYTHON:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3 python3-venv
        python=$(find_python) || true
    fi
    if [ -z "$python" ]; then
        echo "mambaseg needs Python 3.11 or newer with its venv module, and ${PYTHON:-this machine} has none." >&2
        echo "Install it (Debian, Ubuntu: sudo apt-get install python3 python3-venv) or name one: make PYTHON=/path/to/python" >&2
        exit 1
    fi
    "$python" -m venv --clear .venv
fi

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
# torch first: by far the largest, and an interrupted set-up goes on from there.
pip install "$(grep '^torch==' constraints.txt)"
pip install -c constraints.txt -e ".[test]"
