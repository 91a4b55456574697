#!/bin/sh
# Sends a run to GKE as a JobSet and follows process 0. The image has lmx in it; nobody starts the run again once the
# JobSet has given up. usage: launch/gke.sh NAME [OVERRIDE...], such as
#   launch/gke.sh first target.image=IMAGE target.claim=PVC target.accelerator=v5e target.topology=4x4 mesh=fsdp
set -eu
name=$1
shift

# One YAML file: the ConfigMap with the frozen configuration and the script of a container, and the JobSet.
lmx launch target=gke target.code=installed "$@" hydra.run.dir="runs/$name" dry_run=true output=json |
  python3 -c 'import json, sys; print(json.load(sys.stdin)[-1]["input"])' >"$name.yaml"
kubectl apply --server-side --filename="$name.yaml"

jobset=$(sed -n 's/^  *lmx-attempt: //p' "$name.yaml" | head -n 1)
pods="lmx-attempt=$jobset,batch.kubernetes.io/job-completion-index=0"
until kubectl logs --follow --selector="$pods" --container=lmx --tail=-1 2>/dev/null; do sleep 5; done
kubectl get jobsets.jobset.x-k8s.io "$jobset"
echo "to end and delete it: kubectl delete --filename=$name.yaml"
