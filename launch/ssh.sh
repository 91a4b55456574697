#!/bin/sh
# Starts one process of a run on each host by ssh and waits for them. The hosts share a file system, where CONFIG and
# DIR are, and have lmx on their PATH. With -tt a process ends with its connection: Ctrl-C here ends the run.
# (TERM=dumb: a log has lines, not a moving bar.)
# usage: launch/ssh.sh CONFIG DIR HOST...
set -eu
config=$(realpath "$1") dir=$(realpath -m "$2")
shift 2
first=$1 processes=$#
mkdir -p "$dir/launch"

pids=""
i=0
for host in "$@"; do
  ssh -tt -o BatchMode=yes "$host" \
    "TERM=dumb JAX_COORDINATOR_ADDRESS=${first#*@}:8476 JAX_NUM_PROCESSES=$processes JAX_PROCESS_ID=$i" \
    "lmx train --frozen '$config' 'hydra.run.dir=$dir'" >"$dir/launch/task-$i.log" 2>&1 </dev/null &
  pids="$pids $!"
  i=$((i + 1))
done

code=0
for pid in $pids; do
  wait "$pid" || { ended=$?; [ "$code" -ne 0 ] || code=$ended; }
done
tail -n 20 "$dir/launch/task-0.log"
exit "$code"
