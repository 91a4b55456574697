#!/bin/sh
# Makes a TPU pod of one slice, waits for it, runs CONFIG on all its workers, and deletes it. lmx is on the workers' PATH
# after setup.sh, which is run on each; DIR is on storage that all of them mount and that outlives the pod. gcloud's
# project and zone are those that it is set to; your key is in the ssh-agent (ssh-add ~/.ssh/google_compute_engine).
# usage: launch/tpu_vm.sh CONFIG DIR NAME TYPE RUNTIME [FLAG OF gcloud compute tpus queued-resources create ...]
set -eu
config=$1 dir=$2 name=$3 type=$4 runtime=$5
shift 5

gcloud compute tpus queued-resources create "$name" --node-id="$name" --accelerator-type="$type" \
  --runtime-version="$runtime" "$@" --quiet
trap 'gcloud compute tpus queued-resources delete "$name" --force --quiet' EXIT

while :; do
  state=$(gcloud compute tpus queued-resources describe "$name" --format='value(state.state)')
  echo "$name is $state" >&2
  case $state in
    ACTIVE) break ;;
    FAILED | SUSPENDED) exit 1 ;;
  esac
  sleep 15
done

on_all() { gcloud compute tpus tpu-vm ssh "$name" --worker=all --command="$1"; }
send() { gcloud compute tpus tpu-vm scp "$@" --worker=all; }

on_all true
send "$config" "$name:lmx-config.yaml"
if [ -f setup.sh ]; then
  send setup.sh "$name:lmx-setup.sh"
  on_all "sh lmx-setup.sh"
fi
on_all "lmx train --frozen lmx-config.yaml hydra.run.dir=$dir"
