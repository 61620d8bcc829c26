#!/bin/sh
# Runs the suite of remotes (protocol/tests/remotes.rs) against Azurite, the emulator of Azure's blobs, from npm. It is no part of `cargo test`: it
# needs Node, and the network once.
#
#   tests/azure.sh                                 # installs Azurite into a temporary directory
#   AZURITE=/path/to/azurite-blob tests/azure.sh   # one that is there already
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
server=
trap 'test -z "$server" || kill "$server"; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

azurite=${AZURITE:-}
if [ -z "$azurite" ]; then
    npm install --silent --no-fund --no-audit --prefix "$work/npm" azurite@3 > "$work/log" || { cat "$work/log"; exit 1; }
    azurite=$work/npm/node_modules/.bin/azurite-blob
fi

"$azurite" --blobHost 127.0.0.1 --blobPort 0 --location "$work/blobs" --silent --skipApiVersionCheck --disableTelemetry > "$work/log" 2>&1 &
server=$!
until grep -q 'successfully listens' "$work/log"; do
    kill -0 "$server" || { cat "$work/log"; exit 1; }
    sleep 0.1
done

export AZURE_STORAGE_USE_EMULATOR=true AZURITE_BLOB_STORAGE_URL="$(sed -n 's/.*successfully listens on //p' "$work/log")"
# Makes the container, with the key that every Azurite has.
node - <<'JAVASCRIPT'
const { createHmac } = require("crypto");
const key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const headers = { "x-ms-date": new Date().toUTCString(), "x-ms-version": "2021-08-06" };
const named = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`).join("");
const text = `PUT${"\n".repeat(12)}${named}/devstoreaccount1/devstoreaccount1/pleach\nrestype:container`;
const signature = createHmac("sha256", Buffer.from(key, "base64")).update(text).digest("base64");
headers.Authorization = `SharedKey devstoreaccount1:${signature}`;
const url = `${process.env.AZURITE_BLOB_STORAGE_URL}/devstoreaccount1/pleach?restype=container`;
fetch(url, { method: "PUT", headers }).then(async (answer) => {
    if (!answer.ok) throw new Error(await answer.text());
});
JAVASCRIPT

PLEACH_TEST_BUCKET=az://pleach/tests cargo test --locked -p pleach-protocol --features object-stores --test remotes "$@"
