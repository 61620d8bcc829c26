#!/bin/sh
# Makes a Python environment and generates the client's half of the protocol, both beside this file, once; then runs the client:
#
#   examples/python/run.sh 127.0.0.1:7420 DATABASE
#
# Ends with status 69 if there is no Python, or the packages cannot be had.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
protos=$here/../../protocol/proto
work=${PLEACH_PYTHON_DIR:-$here}
python=$work/.venv/bin/python

unavailable() {
    echo "$1" >&2
    exit 69
}

if ! "$python" -c 'import blake3, grpc, grpc_tools' 2>/dev/null; then
    command -v python3 >/dev/null || unavailable "there is no python3 here"
    python3 -m venv "$work/.venv" || unavailable "python3 cannot make an environment: is its venv module installed?"
    "$python" -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 15 -r "$here/requirements.txt" ||
        unavailable "the packages of requirements.txt cannot be had: is there a network?"
fi
mkdir -p "$work/generated"
"$python" -m grpc_tools.protoc -I "$protos" --python_out="$work/generated" --grpc_python_out="$work/generated" \
    pleach/sync/v1/sync.proto
PYTHONPATH=$work/generated PYTHONDONTWRITEBYTECODE=1 exec "$python" "$here/client.py" "$@"
