#!/bin/sh
# One heavy campaign of the tests, by name; at most an hour on two cores. What passed on this very tree is not run again.
#
#   infra/campaign.sh NAME         from the root of the repository, in the developers' environment
#
# M3_SEED and M3_HISTORIES choose other random histories; PYTEST_ARGS goes to pytest.
set -eu

name=$1
bin=.venv/bin

campaign() {
    case $name in
        wheel) infra/wheel.sh ;;
        infra)
            infra/tools.sh build
            REQUIRE_TOOLS=1 "$bin/python" -m pytest tests/infra tests/pipelines/ingest/runners/test_prism.py -m "not nightly"
            nightly tests/infra
            ;;
        model) nightly tests/m3core ;;
        stores) nightly tests/conformance tests/connectors tests/servers ;;
        kills) nightly tests/pipelines --ignore tests/pipelines/query --ignore tests/pipelines/test_histories.py ;;
        histories) nightly tests/pipelines/test_histories.py ;;
        query) nightly tests/pipelines/query ;;
        *)
            echo "no campaign is called $name: wheel, infra, model, stores, kills, histories or query" >&2
            exit 2
            ;;
    esac
}

nightly() {
    # shellcheck disable=SC2086 - several words
    "$bin/python" -m pytest -m nightly "$@" ${PYTEST_ARGS:-}
}

# The commit and what is changed on top of it.
tree=$({ git rev-parse HEAD; git diff HEAD; git status --porcelain; } | sha256sum | cut -d ' ' -f 1)
key="$tree ${M3_SEED:-} ${M3_HISTORIES:-} ${PYTEST_ARGS:-}"
stamp=.stamps/nightly-$name
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then
    echo "$name: passed on this tree already; rm $stamp runs it again"
    exit 0
fi
campaign
mkdir -p .stamps
echo "$key" > "$stamp"
