#!/bin/sh
# A primary, its remote and two read replicas, on ports 7430 to 7433 of this machine:
#
#   examples/replicas/run.sh               # starts them, shows what they do, and stops them
#   examples/replicas/run.sh --stay        # and leaves them running until Ctrl-C
#
# Their data is in a temporary directory, or in $PLEACH_DIR. PLEACH=/path/to/pleach takes that one; else it is built.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${PLEACH:-}" ]; then
    PLEACH=$(cd "$here" && cargo build --quiet --locked --workspace --bin pleach --message-format=json-render-diagnostics |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1)
fi
work=${PLEACH_DIR:-$(mktemp -d)}
mkdir -p "$work"
cp "$here"/*.yaml "$work"

servers=
stop() {
    for server in $servers; do kill "$server" 2>/dev/null || true; done
    wait
    [ -n "${PLEACH_DIR:-}" ] || rm -rf "$work"
}
trap stop EXIT
trap 'exit 130' INT TERM

fail() {
    echo "$*" >&2
    tail -n 5 "$work"/*.log >&2
    exit 1
}

start() {
    "$PLEACH" serve --config "$work/$1.yaml" 2>"$work/$1.log" &
    started=$!
    servers="$servers $started"
    tries=200
    until grep -q '^listening on ' "$work/$1.log"; do
        tries=$((tries - 1))
        kill -0 "$started" 2>/dev/null && [ $tries -gt 0 ] || fail "$1 does not start"
        sleep 0.1
    done
}

# A command on the database of a server, by its port.
on() {
    port=$1
    shift
    "$PLEACH" "$@" --server "http://127.0.0.1:$port" --database shop
}

# What a replica that hears of changes has, up to two seconds later.
until_read() {
    tries=40
    until [ "$(on "$1" get fruit "$2" 2>/dev/null)" = "$3" ]; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "the server on port $1 does not have $2 = $3"
        sleep 0.1
    done
    echo "   port $1: $2 is $3"
}

for name in remote primary replica-1 replica-2; do
    start "$name"
    [ "$name" != primary ] || primary=$started
done

echo "A database is made on the primary (7431), and is at the remote (7430) at once:"
"$PLEACH" database create shop --server http://127.0.0.1:7431
"$PLEACH" database list --server http://127.0.0.1:7430

echo "What is committed on the primary is read on both replicas (7432, 7433):"
on 7431 put fruit apple red
on 7431 commit -m 'Apples are red' --quiet
[ "$(on 7432 get fruit apple)" = red ] || fail "the first replica does not have what was committed"
echo "   port 7432: apple is red"
until_read 7433 apple red
on 7432 put fruit pear green 2>/dev/null && fail "a replica took a write"

echo "The primary dies, and the first replica takes its place:"
kill -9 "$primary"
"$PLEACH" replica promote --server http://127.0.0.1:7432
on 7432 put fruit apple green
on 7432 commit -m 'No, green' --quiet
until_read 7433 apple green

if [ "${1:-}" = --stay ]; then
    echo "They run until Ctrl-C; their files are in $work."
    wait
fi
echo "All as expected."
