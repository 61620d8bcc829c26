#!/bin/sh
# Runs the suite of remotes (protocol/tests/remotes.rs) against the S3 gateway of Ceph: a monitor, a store of objects in memory and the gateway, on
# loopback, without root. It is no part of `cargo test`: it needs Python, and where Ceph is not installed, Debian's `apt-get` and the network.
#
#   tests/ceph.sh      # unpacks Debian's packages of Ceph into a temporary directory, 260 MB, if there is no `radosgw`
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
running=
stop() {
    for process in $running; do kill -KILL "$process" 2> "$work/out" || true; done
    wait
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 1' INT TERM

plugins=
if ! command -v radosgw > "$work/out"; then
    packages=$(apt-get install --simulate --no-install-recommends radosgw ceph-mon ceph-osd | awk '/^Inst/ { print $2 }')
    mkdir "$work/packages" "$work/ceph"
    # Each word is a package.
    (cd "$work/packages" && apt-get download --quiet=2 $packages > "$work/out")
    for package in "$work"/packages/*.deb; do dpkg --extract "$package" "$work/ceph"; done
    rm -r "$work/packages"
    libraries=$(dirname "$work"/ceph/usr/lib/*/ceph)
    export PATH="$work/ceph/usr/bin:$PATH"
    export LD_LIBRARY_PATH="$libraries:$libraries/ceph:$work/ceph/lib/${libraries##*/}"
    plugins="osd_class_dir = $libraries/rados-classes
erasure_code_dir = $libraries/ceph/erasure-code
plugin_dir = $libraries/ceph"
fi

# Ports that are free now.
ports=$(python3 - <<'PYTHON'
import socket
free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*[one.getsockname()[1] for one in free])
PYTHON
)
monitor="[v2:127.0.0.1:${ports% *}]"
gateway="127.0.0.1:${ports#* }"

# The gateway asks for `secure` connections, which there are none of without authentication: hence `ms_mon_client_mode`.
cluster=00000000-0000-4000-8000-000000000001
export CEPH_CONF="$work/ceph.conf"
cat > "$CEPH_CONF" <<CONF
[global]
fsid = $cluster
mon_host = $monitor
public_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc secure
osd_objectstore = memstore
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
mon_allow_pool_size_one = true
run_dir = $work
admin_socket = $work/\$name.asok
keyring = $work/keyring
log_file = $work/\$name.log
mon_cluster_log_file = $work/cluster.log
mon_data = $work/mon
osd_data = $work/osd
rgw_data = $work/rgw
$plugins
CONF
mkdir "$work/mon" "$work/osd" "$work/rgw"
: > "$work/keyring"

# A command of Ceph that ends. What it says is shown if it fails, or takes too long.
run() {
    timeout 60 "$@" > "$work/out" 2>&1 || { cat "$work/out"; exit 1; }
}

run osdmaptool --createsimple 1 --clobber "$work/osdmap"
run monmaptool --create --fsid "$cluster" --addv a "$monitor" "$work/monmap"
run ceph-mon --mkfs --id a --monmap "$work/monmap" --osdmap "$work/osdmap"
ceph-mon -f --id a > "$work/mon.out" 2>&1 &
running=$!
run ceph-osd --mkfs --id 0
ceph-osd -f --id 0 > "$work/osd.out" 2>&1 &
running="$running $!"
run radosgw-admin --name client.admin --no-mon-config user create --uid pleach --display-name pleach --access-key test --secret-key test
radosgw -f --name client.admin --no-mon-config --rgw-frontends "beast endpoint=$gateway" > "$work/rgw.out" 2>&1 &
running="$running $!"

# Makes the bucket, when the gateway answers.
python3 - "$gateway" <<'PYTHON'
import base64, hmac, http.client, sys, time
from email.utils import formatdate

for _ in range(300):
    date = formatdate(usegmt=True)
    signature = hmac.digest(b"test", f"PUT\n\n\n{date}\n/pleach".encode(), "sha1")
    headers = {"Date": date, "Authorization": f"AWS test:{base64.b64encode(signature).decode()}"}
    gateway = http.client.HTTPConnection(sys.argv[1], timeout=60)
    try:
        gateway.request("PUT", "/pleach", headers=headers)
        answer = gateway.getresponse()
    except ConnectionRefusedError:
        time.sleep(0.1)
        continue
    sys.exit(None if answer.status == 200 else answer.read().decode())
sys.exit("the gateway does not answer")
PYTHON

export AWS_ENDPOINT="http://$gateway" AWS_ALLOW_HTTP=true AWS_REGION=us-east-1
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
unset LD_LIBRARY_PATH
PLEACH_TEST_BUCKET=s3://pleach/tests cargo test --locked -p pleach-protocol --features object-stores --test remotes "$@"
