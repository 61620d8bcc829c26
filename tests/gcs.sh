#!/bin/sh
# Runs the suite of remotes (protocol/tests/remotes.rs) against a stand-in for Google Cloud Storage: moto, from PyPI, behind what turns the headers of
# Google's XML API into those of S3, which it is otherwise like. No emulator of Google's own that can be had honours `x-goog-if-generation-match`. So
# this holds the requests that are sent against Google's documents, and no more. It is no part of `cargo test`: it needs Python, and the network once.
#
#   tests/gcs.sh                              # installs moto into a temporary directory
#   MOTO_PYTHON=/path/to/python tests/gcs.sh  # a Python that has moto[s3,server] already
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server"; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

python=${MOTO_PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet 'moto[s3,server]>=5.2'
    python=$work/venv/bin/python
fi

cat > "$work/serve.py" <<'PYTHON'
import itertools, sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

s3 = DomainDispatcherApplication(create_backend_app)
generations = itertools.count(1)


def google(environ, start_response):
    """Generation 0 is what is not there; each answer says a generation."""
    environ["HTTP_AUTHORIZATION"] = "AWS test:test"
    if environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None) == "0":
        environ["HTTP_IF_NONE_MATCH"] = "*"

    def start(status, headers, *rest):
        return start_response(status, [*headers, ("x-goog-generation", str(next(generations)))], *rest)

    return s3(environ, start)


server = make_server("127.0.0.1", 0, google, threaded=False)
with open(sys.argv[1], "w") as port:
    port.write(f"{server.server_port}\n")
server.serve_forever()
PYTHON
"$python" "$work/serve.py" "$work/port" > "$work/log" 2>&1 &
server=$!
until [ -s "$work/port" ]; do
    kill -0 "$server" || { cat "$work/log"; exit 1; }
    sleep 0.1
done

export GOOGLE_BASE_URL="http://127.0.0.1:$(cat "$work/port")" GOOGLE_ALLOW_HTTP=true GOOGLE_BEARER_TOKEN=test
"$python" -c 'import sys, urllib.request as http; http.urlopen(http.Request(sys.argv[1], method="PUT"))' "$GOOGLE_BASE_URL/pleach"

PLEACH_TEST_BUCKET=gs://pleach/tests cargo test --locked -p pleach-protocol --features object-stores --test remotes "$@"
