#!/usr/bin/env bash
# Checks of the recipe what can be checked without a cluster: that it is YAML whose parts fit each other, that the configuration that a pod writes is valid, and that the
# label follows the role, against an API server that only listens. PLEACH names the binary. Needs Python with PyYAML, and curl; without them nothing is checked. With kubectl, it is read by that, too.
set -euo pipefail
pleach=$(realpath "$(command -v "${PLEACH:-pleach}")")
cd "$(dirname "$0")"
if ! python3 -c 'import yaml' 2>/dev/null || ! command -v curl >/dev/null; then
    echo "skipped: Python with PyYAML and curl are needed" >&2
    exit 0
fi
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

python3 - "$work" <<'PYTHON'
import sys, yaml
parts = list(yaml.safe_load_all(open("pleach.yaml")))
of = lambda kind, name: next(p for p in parts if p["kind"] == kind and p["metadata"]["name"] == name)
assert all(p.get("apiVersion") and p.get("kind") and p["metadata"]["name"] for p in parts)
spec = of("StatefulSet", "pleach")["spec"]
template = spec["template"]
labels = template["metadata"]["labels"]
pod = template["spec"]
assert spec["selector"]["matchLabels"].items() <= labels.items()
assert of("PodDisruptionBudget", "pleach")["spec"]["selector"]["matchLabels"].items() <= labels.items()
of("Service", spec["serviceName"]), of("ServiceAccount", pod["serviceAccountName"])
volumes = {v["name"] for v in pod["volumes"]} | {v["metadata"]["name"] for v in spec["volumeClaimTemplates"]}
for container in pod["initContainers"] + pod["containers"]:
    assert {m["name"] for m in container["volumeMounts"]} <= volumes, container["name"]
ports = {p["name"] for c in pod["containers"] for p in c.get("ports", [])}
for probe in ("readinessProbe", "livenessProbe"):
    assert pod["containers"][0][probe]["httpGet"]["port"] in ports
assert of("Service", "pleach-primary")["spec"]["selector"]["pleach-role"] == "primary"
assert dict((e["name"], e.get("value")) for e in pod["initContainers"][0]["env"])["NODES"] == str(spec["replicas"])
for name, text in of("ConfigMap", "pleach")["data"].items():
    open(f"{sys.argv[1]}/{name}", "w").write(text)
PYTHON
if command -v kubectl >/dev/null; then
    # Reads it as a cluster would, without one.
    mkdir "$work/build"
    cp pleach.yaml "$work/build"
    echo 'resources: [pleach.yaml]' >"$work/build/kustomization.yaml"
    [ "$(kubectl kustomize "$work/build" | grep -c '^kind: ')" = "$(grep -c '^kind: ' pleach.yaml)" ]
fi
echo "the parts fit each other"
for script in configure.sh label.sh; do sh -n "$work/$script"; done

for node in 0 1 2; do
    HOSTNAME=pleach-$node NODES=3 ETCD=http://etcd:2379 NAMESPACE=default CONFIG="$work/$node.yaml" sh "$work/configure.sh"
    sed -i "s|/users/users.yaml|$work/users.yaml|; s|/data|$work/data|" "$work/$node.yaml"
    echo "users: []" >"$work/users.yaml"
    "$pleach" serve --check --config "$work/$node.yaml"
done
echo "the configuration of each pod is valid"

# What the label becomes is what the API server is told.
cat >"$work/api.py" <<'PYTHON'
import http.server, json, sys
class Api(http.server.BaseHTTPRequestHandler):
    def do_PATCH(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Content-Type"] == "application/merge-patch+json" and self.headers["Authorization"] == "Bearer secret"
        assert self.path == "/api/v1/namespaces/default/pods/pleach-1", self.path
        open(sys.argv[1], "a").write(body["metadata"]["labels"]["pleach-role"] + "\n")
        self.send_response(200); self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Api)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
python3 "$work/api.py" "$work/labels" >"$work/port" &
pids+=($!)
mkdir "$work/secrets"
echo secret >"$work/secrets/token"
: >"$work/secrets/ca.crt"
: >"$work/labels"
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
metrics=$(free_port) peers=$(free_port) listener=$(free_port)
cat >"$work/node.yaml" <<YAML
data_dir: $work/node
listener: {host: 127.0.0.1, port: $listener}
metrics: {host: 127.0.0.1, port: $metrics}
cluster:
  standby_remotes: [{name: other, remote_url_template: "http://127.0.0.1:1/{database}"}]
  bootstrap_role: standby
  remotesapi: {address: 127.0.0.1, port: $peers}
YAML
"$pleach" serve --config "$work/node.yaml" 2>/dev/null &
pids+=($!)
until [ -s "$work/port" ]; do sleep 0.1; done
HOSTNAME=pleach-1 NAMESPACE=default API=http://127.0.0.1:$(cat "$work/port") SECRETS=$work/secrets METRICS=http://127.0.0.1:$metrics \
    sh "$work/label.sh" >/dev/null 2>&1 &
pids+=($!)
becomes() {
    for _ in $(seq 100); do
        [ "$(tail -n 1 "$work/labels")" = "$1" ] && return
        sleep 0.2
    done
    echo "the label is not $1 but: $(cat "$work/labels")" >&2
    exit 1
}
becomes standby
"$pleach" --server "http://127.0.0.1:$listener" cluster assume-role primary 7 >/dev/null
becomes primary
kill "${pids[1]}"
becomes none
echo "the label follows the role"
