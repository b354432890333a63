#!/bin/sh
# Builds the wheel, installs it into an empty environment and runs `m3 demo` from it, outside the repository.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bin=$PWD/.venv/bin
"$bin/python" -m build --quiet --wheel --outdir "$work/dist" .
"$bin/python" -m venv "$work/venv"
"$bin/uv" pip install --quiet --python "$work/venv/bin/python" "$(echo "$work"/dist/*.whl)[all]"
rm -rf build
cd "$work"
M3_HOME=$work/home "$work/venv/bin/m3" demo --json
