#!/bin/sh
# lease.sh RESOURCE COMMAND… runs the command while nobody else has the lock, and ends it when the lock is lost.
api=${HOLDFAST_URL:-http://localhost:3000}/api/leases beat_s=${BEAT_S:-5} resource=${1:?} && shift
ask() { curl -sSf ${API_KEY:+-H "x-api-key: $API_KEY"} "$@"; }
lease=$(ask -m $((60 + beat_s)) "$api" -H 'content-type: application/json' -d '{"resource": "'"$resource"'", "mode": "exclusive",
  "wait_ms": 60000, "ttl_ms": '$((4 * beat_s))000', "owner": "'"$(hostname):$$"'"}') || exit 75
lease_id=$(expr "$lease" : '.*"lease_id":"\([^"]*\)"')
FENCING_TOKEN=$(expr "$lease" : '.*"fencing_token":\([0-9]*\)') "$@" & work=$!
# A beat for an answer, one of sleep, one for a heartbeat that fails: the command ends a beat before its TTL does.
while sleep "$beat_s" >/dev/null 2>&1; do
  ask -m "$beat_s" -o /dev/null -X PUT "$api/$lease_id" || { echo "lost: $resource" >&2; kill $work; exit; }
done & heart=$!
trap 'kill $work; wait $work' INT TERM
wait $work; status=$?
kill $heart 2>/dev/null
ask -m "$beat_s" -X DELETE "$api/$lease_id" && exit $status # 410, and then not 0, when it was lost meanwhile
