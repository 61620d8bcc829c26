#!/bin/sh
# Runs the suite of remotes (protocol/tests/remotes.rs), that of primaries that push on write (replication/tests/primary.rs), and elections against an S3 server: moto, from PyPI, which answers one request at a time, so that
# a put if absent is one step. Its bucket `careless` ignores the condition, as some servers do. It is no part of `cargo test`: it needs Python, and the
# network once.
#
#   tests/s3.sh                              # installs moto into a temporary directory
#   MOTO_PYTHON=/path/to/python tests/s3.sh  # a Python that has moto[s3,server] already
#
# Against another server: start it, make a bucket, and
#   AWS_ENDPOINT=http://HOST:PORT AWS_ALLOW_HTTP=true AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… PLEACH_TEST_BUCKET=s3://BUCKET/PREFIX \
#       cargo test -p pleach-protocol --features object-stores --test remotes
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
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

s3 = DomainDispatcherApplication(create_backend_app)


def serve(environ, start_response):
    if environ["PATH_INFO"].startswith("/careless/"):
        environ.pop("HTTP_IF_NONE_MATCH", None)
    return s3(environ, start_response)


server = make_server("127.0.0.1", 0, serve, threaded=False)
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

export AWS_ENDPOINT="http://127.0.0.1:$(cat "$work/port")" AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
"$python" - <<'PYTHON'
import os, boto3
for bucket in ["pleach", "careless"]:
    boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT"]).create_bucket(Bucket=bucket)
PYTHON

PLEACH_TEST_CARELESS_BUCKET=s3://careless/tests PLEACH_TEST_BUCKET=s3://pleach/tests \
    cargo test --locked -p pleach-protocol --features object-stores --test remotes "$@"
PLEACH_TEST_BUCKET=s3://pleach/primaries cargo test --locked --workspace --test primary "$@"
PLEACH_TEST_BUCKET=s3://pleach/elections cargo test --locked --workspace --test it by_a_directory "$@"
