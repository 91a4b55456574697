#!/bin/sh
# Submits a run to SLURM as a job of NODES nodes, one process on each. CONFIG and DIR are on a file system that the nodes
# share, lmx is on their PATH. SLURM starts it again after a preemption and at the time limit, from its newest checkpoint.
# usage: launch/slurm.sh CONFIG DIR NODES [OPTION OF SBATCH...]
set -eu
config=$(realpath "$1") dir=$(realpath -m "$2") nodes=$3
shift 3
mkdir -p "$dir/launch"

sbatch --nodes="$nodes" --ntasks-per-node=1 --requeue --signal=TERM@120 \
  --open-mode=append --output="$dir/launch/job.log" --export=ALL,CONFIG="$config",DIR="$dir" "$@" <<'JOB'
#!/bin/sh
resume=""
if ls "$DIR"/checkpoints/*/lmx.json >/dev/null 2>&1; then resume=--resume; fi
trap : TERM
srun --kill-on-bad-exit=0 --output="$DIR/launch/task-%t.log" --open-mode=append \
  lmx train --frozen "$CONFIG" "hydra.run.dir=$DIR" $resume
code=$?
if [ "$code" = 75 ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
JOB
