#!/bin/sh
# Runs the client against a real server, and compares what it prints with what `pleach` says. Skipped, with a message, where there is no Python or
# the packages cannot be had.
#
#   examples/python/test.sh                        # builds the server
#   PLEACH=/path/to/pleach examples/python/test.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."

work=$(mktemp -d)
server=
watch=
cleanup() {
    for process in $watch $server; do kill "$process" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

fail() {
    echo "$*" >&2
    for file in out log watched; do
        test -f "$work/$file" && sed "s/^/$file: /" "$work/$file" >&2
    done
    exit 1
}

# Waits up to 20 seconds.
until_true() {
    tries=200
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "waited in vain for: $*"
        sleep 0.1
    done
}

export PLEACH_PYTHON_DIR="$work"
status=0
"$here/run.sh" --help >/dev/null || status=$?
if [ $status = 69 ]; then
    echo "skipped: the client in Python needs python3 with venv, and the Python package index"
    exit 0
fi
[ $status = 0 ] || fail "the client does not run"

if [ -z "${PLEACH:-}" ]; then
    PLEACH=$(cargo build --quiet --locked --workspace --bin pleach --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
fi
mkdir "$work/data"
"$PLEACH" serve --data-dir "$work/data" --listen 127.0.0.1:0 2> "$work/log" &
server=$!
until_true grep -q '^listening on ' "$work/log"
address=$(sed -n 's/^listening on //p' "$work/log")
pleach() {
    "$PLEACH" "$@" --server "http://$address" --database shop
}
client() {
    "$here/run.sh" "$address" "$@" > "$work/out" 2>&1
}

pleach database create shop > /dev/null
client shop || fail "an empty database is listed"
[ ! -s "$work/out" ] || fail "an empty database has nothing to list"
for i in 1 2 3; do
    pleach put fruit "key $i" "value $i" > /dev/null 2>&1
    pleach commit -m "commit $i" > /dev/null 2>&1
done
pleach tag v1 > /dev/null 2>&1
head=$(pleach log -n 1 --json | sed -n 's/.*"hash":"\([0-9a-f]*\)".*/\1/p')
[ -n "$head" ] || fail "no commit"

client shop --depth 3 || fail "the client failed"
grep -qx "heads/main	$head" "$work/out" || fail "the branch is not listed"
grep -qx "tags/v1	$head" "$work/out" || fail "the tag is not listed"
grep -q "^\.	commit	level 0	2 children	.*	$head\$" "$work/out" || fail "the commit is not shown"
# Each chunk that the client found is one that the server gives by its address, with as many bytes.
grep -E '^[.0-9]' "$work/out" > "$work/chunks"
[ "$(wc -l < "$work/chunks")" -ge 6 ] || fail "too few chunks"
while IFS='	' read -r place kind level children weak bytes hash; do
    [ "$(pleach chunk cat "$hash" | wc -c)" = "${bytes% bytes}" ] || fail "$place: another length"
done < "$work/chunks"
grep -q "	table	" "$work/chunks" || fail "no definition of a table"

# What is refused is said.
client none && fail "a database that is not there is listed"
grep -q "^NOT_FOUND: " "$work/out" || fail "not a clear error"

# Changes are told.
"$here/run.sh" "$address" shop --watch > "$work/watched" 2>&1 &
watch=$!
until_true grep -q "heads/main" "$work/watched" 2> /dev/null
pleach tag v2 > /dev/null 2>&1
pleach tag -d v1 > /dev/null 2>&1
until_true grep -qx "tags/v2	$head" "$work/watched"
until_true grep -qx "tags/v1	gone" "$work/watched"

# A watch does not keep the server from stopping.
kill "$server"
until_true sh -c "! kill -0 $server 2>/dev/null"
wait "$server" || fail "the server did not stop well"
server=
wait "$watch" && fail "the watch outlived its server"
watch=
grep -q "^UNAVAILABLE: " "$work/watched" || fail "the client was not told that the server stopped"
echo "passed: the client in Python, against $PLEACH"
