#!/bin/sh
# Creates .venv and installs threefold into it: with uv where it works (seconds), else with pip (minutes).
#   environment.sh announce         say what will be downloaded, if anything
#   environment.sh install EXTRA    install the extra `all` (use) or `dev` (use and tests)
set -eu
cd "$(dirname "$0")/.."

bin=.venv/bin
log=.venv/install.log

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "threefold: no Python 3.11 to 3.13 found. Install one, or name it: make PYTHON=/path/to/python quickstart" >&2
    exit 2
}

step() { # name, detail, seconds
    printf '  %-13s %-60s ok %4s s\n' "$1" "$2" "$3"
}

announce() {
    if [ ! -e .venv/.installed-use ]; then
        echo "threefold downloads about 3 GB of packages (6 GB on disk, most of it torch) and 95 MB of model data"
        echo "(0.5 GB on disk): about 2 minutes on two cores. Ctrl-C stops; running it again goes on."
    fi
}

install() {
    start=$(date +%s)
    if [ ! -x "$bin/python" ]; then
        "$(find_python)" -m venv .venv
    fi
    step environment ".venv, $("$bin/python" --version)" $(($(date +%s) - start))
    start=$(date +%s)
    tool=uv
    if ! { "$bin/python" -m pip install --quiet uv &&
        "$bin/uv" pip install --quiet --python "$bin/python" --editable ".[$1]"; } >"$log" 2>&1; then
        tool=pip
        if ! "$bin/python" -m pip install --quiet --editable ".[$1]" >>"$log" 2>&1; then
            tail -n 5 "$log" >&2
            echo "threefold: the packages could not be installed (whole log: $log). Check pip's index and the disk, run it again." >&2
            exit 7
        fi
    fi
    step packages "torch, apache-beam, qdrant-edge and others, by $tool" $(($(date +%s) - start))
}

"$@"
