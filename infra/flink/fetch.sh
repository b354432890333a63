#!/bin/sh
# Fetches what a Flink 1.19 cluster with Beam's job server is made of, from published packages, into FOLDER:
#   FOLDER/job-server/*.jar   Beam's Flink runner with all it needs (Maven)
#   FOLDER/flink/lib/*.jar    Flink itself and its log4j (PyPI: apache-flink-libraries)
# 25 s, 480 MB. Running it again fetches what is missing.
set -eu
folder=${1:?usage: fetch.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
version=1.19.3

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
if [ ! -e "$folder/job-server/.complete" ]; then
    mvn --batch-mode --quiet --file "$here/pom.xml" \
        dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$folder/job-server"
    touch "$folder/job-server/.complete"
fi
if [ ! -e "$folder/flink/.complete" ]; then
    "${PYTHON:-python3}" -m venv "$folder/.wheel"
    "$folder/.wheel/bin/pip" install --quiet --no-deps --target "$folder/.wheel/site" "apache-flink-libraries==$version"
    mkdir -p "$folder/flink"
    cp -R "$folder/.wheel/site/pyflink/lib" "$folder/flink/lib"
    rm -r "$folder/.wheel"
    touch "$folder/flink/.complete"
fi
