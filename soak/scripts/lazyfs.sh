#!/bin/sh
# Mounts LazyFS, which forgets on command what was not synced: `lazyfs.sh DIR`.
#
# Afterwards DIR/mounted is the file system, kept in DIR/root; commands go into DIR/commands, and what was done comes out of DIR/done.
# It ends when DIR/mounted is unmounted. LazyFS is looked for on the path, or is what LAZYFS names.
set -eu
dir=$1
lazyfs=${LAZYFS:-$(command -v lazyfs || true)}

missing() {
    echo "$1" >&2
    exit 3
}
[ -n "$lazyfs" ] || missing 'no lazyfs: build https://github.com/dsrhaslab/lazyfs (apt-get install g++ cmake libfuse3-dev libtoml11-dev libspdlog-dev; ./build.sh in libs/libpcache, then in lazyfs) and set LAZYFS to lazyfs/build/lazyfs'
[ -c /dev/fuse ] || missing 'no /dev/fuse: load the module fuse, or run where the container has the device'
command -v fusermount3 >/dev/null || missing 'no fusermount3: apt-get install fuse3'

mkdir -p "$dir/mounted" "$dir/root"
mkfifo "$dir/commands" "$dir/done"
cat >"$dir/config.toml" <<CONFIG
[faults]
fifo_path = "$dir/commands"
fifo_path_completed = "$dir/done"
[cache]
apply_eviction = false
[cache.simple]
custom_size = "256MB"
blocks_per_page = 1
[filesystem]
log_all_operations = false
logfile = "$dir/log"
CONFIG
"$lazyfs" "$dir/mounted" --config-path "$dir/config.toml" -o modules=subdir -o "subdir=$dir/root" >&2
