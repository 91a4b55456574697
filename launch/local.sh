#!/bin/sh
# Starts PROCESSES processes of one run on this machine, with DEVICES virtual CPU devices each, and waits for them.
# usage: launch/local.sh CONFIG DIR PROCESSES DEVICES
set -eu
config=$1 dir=$2 processes=$3 devices=$4
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES="$devices"
if [ "$processes" -gt 1 ]; then
  export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$processes"
fi
mkdir -p "$dir/launch"

pids=""
i=0
while [ "$i" -lt "$processes" ]; do
  if [ "$processes" -gt 1 ]; then export JAX_PROCESS_ID="$i"; fi
  lmx train --frozen "$config" "hydra.run.dir=$dir" >"$dir/launch/task-$i.out" 2>"$dir/launch/task-$i.log" &
  pids="$pids $!"
  i=$((i + 1))
done

# The first exit code that is not 0 is the run's.
code=0
for pid in $pids; do
  wait "$pid" || { ended=$?; [ "$code" -ne 0 ] || code=$ended; }
done
cat "$dir/launch/task-0.out"
exit "$code"
