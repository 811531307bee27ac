#!/usr/bin/env bash
# The extension and the core on Python 3.12, which 3D Slicer brings, as far as this machine has it:
#   no Python 3.12: the grammar of 3.12 is checked
#   Python 3.12: tests on it; the networks too where a torch for plain processors can be had (PyPI's brings 4 GB of
#   CUDA's libraries), else the process that computes has the Python of .venv
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-3.12

find_python() {
    local candidate
    for candidate in python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

set_up() {
    local python=$1 pip=("$venv/bin/python" -m pip -q --disable-pip-version-check)
    "$python" -m venv --clear "$venv"
    "${pip[@]}" install --retries 0 --timeout 15 --extra-index-url https://download.pytorch.org/whl/cpu \
        "$(grep '^torch==' constraints.txt)+cpu" >/dev/null 2>&1 || echo "No torch for plain processors and Python 3.12 here."
    # what needs torch itself would bring PyPI's
    "$venv/bin/python" - >"$venv/needed.txt" <<'END'
import re, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
chosen = {"slicer-core", "pytest", "hypothesis", "nibabel", "pynrrd"}
names = {text: re.match(r"[\w.-]+", text)[0].lower() for text in wanted}
kept = [text for text in wanted if names[text] in chosen or text in project["dependencies"]]
print("\n".join([*(text for text in kept if names[text] not in {"torch", "batchgeneratorsv2"}), "pyside6-essentials"]))
END
    "${pip[@]}" install -c constraints.txt -r "$venv/needed.txt" && "${pip[@]}" install --no-deps -e . &&
        touch "$venv/.ready"
}

only_grammar() {
    echo "There is no Python 3.12 here, or no packages for it, so only its grammar is checked."
    exec .venv/bin/ruff check --isolated --select E9 --target-version py312 core slicer_extension napari_mambaseg
}

python=$(find_python) || only_grammar
if ! [ "$venv/.ready" -nt constraints.txt ] || ! [ "$venv/.ready" -nt pyproject.toml ]; then
    set_up "$python" || only_grammar
fi
"$venv/bin/python" -m compileall -q core slicer_extension
export QT_QPA_PLATFORM=offscreen
unset DISPLAY
core="tests/core/io tests/core/metrics tests/core/test_image.py tests/core/jobs/test_messages.py tests/core/jobs/test_images.py"
if "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    core="$core tests/core/test_segmentation.py tests/core/ops/test_scan_dispatch.py"
else
    mkdir -p "$venv/computes"
    printf '#!/bin/sh\nexec "%s" "$@"\n' "$PWD/.venv/bin/python" >"$venv/computes/PythonSlicer"
    chmod +x "$venv/computes/PythonSlicer"
    export PATH=$PWD/$venv/computes:$PATH
fi
# shellcheck disable=SC2086 # a list of files; the warning is pynrrd's, about Python 3.12
"$venv/bin/python" -m pytest -q -m "not slow and not soak" -W "ignore:datetime.datetime.utcnow:DeprecationWarning" $core
"$venv/bin/python" -m pytest -q -m "not slow and not soak" tests/slicer/test_{extension,geometry,logic}.py
