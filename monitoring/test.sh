#!/bin/sh
# Checks the alert rules, and runs their tests. Needs promtool, which comes with Prometheus; without it nothing is checked.
set -eu
cd "$(dirname "$0")"
if ! command -v promtool >/dev/null; then
    echo "skipped: promtool is not there; it comes with Prometheus" >&2
    exit 0
fi
promtool check rules alerts.yaml
promtool test rules alerts_test.yaml
# An alert that no test makes fire proves nothing.
for alert in $(sed -n 's/^ *- alert: //p' alerts.yaml); do
    grep -A1 "^ *alertname: $alert\$" alerts_test.yaml | grep -q exp_alerts || {
        echo "no test makes $alert fire" >&2
        exit 1
    }
done
