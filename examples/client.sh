#!/usr/bin/env bash
# Runs examples/client.rs against a server of its own, and checks what it counted.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --quiet --locked --workspace --bin pleach --bin client
target=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug
work=$(mktemp -d)
"$target/pleach" serve --data-dir "$work/data" --listen 127.0.0.1:0 2>"$work/log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
until address=$(sed -n 's/^listening on //p' "$work/log") && [ -n "$address" ]; do
    kill -0 "$server"
    sleep 0.1
done

for expected in '0 visits before, 100 now' '100 visits before, 200 now'; do
    "$target/client" "http://$address" | tee "$work/said"
    grep -qx "$expected" "$work/said"
done
