#!/bin/sh
# lease.sh RESOURCE COMMAND… runs the command under the lock, and ends it when the lock is lost.
api=${HOLDFAST_URL:-http://localhost:3000}/api/leases beat_s=${BEAT_S:-5} resource=${1:?} && shift
ask() { curl -sSf ${API_KEY:+-H "x-api-key: $API_KEY"} "$@"; }
lease=$(ask -m $((60 + beat_s)) "$api" -H 'content-type: application/json' -d '{"resource": "'"$resource"'", "mode": "exclusive",
  "wait_ms": 60000, "ttl_ms": '$((4 * beat_s))000', "owner": "'"$(hostname):$$"'"}') || exit 75
lease_id=$(expr "$lease" : '.*"lease_id":"\([^"]*\)"')
FENCING_TOKEN=$(expr "$lease" : '.*"fencing_token":\([0-9]*\)') "$@" & work=$!
# One beat for an answer, one of sleep, one for a failed heartbeat: the command ends one beat before the TTL does.
while sleep "$beat_s" >/dev/null 2>&1; do
  ask -m "$beat_s" -o /dev/null -X PUT "$api/$lease_id" || { echo "lost: $resource" >&2; kill $work; exit; }
done & heart=$!
trap 'kill $work; wait $work' INT TERM
wait $work; status=$?
kill $heart 2>/dev/null
ask -m "$beat_s" -X DELETE "$api/$lease_id" && exit $status # 410, so not 0, when it was lost before
