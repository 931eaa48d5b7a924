#!/bin/bash
#SBATCH --job-name=clipsieve
#SBATCH --array=1-16
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --time=06:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=clipsieve-%A_%a.log

# One part of the shards for each task of the array, all into one OUT; the last to end computes what
# needs all shards.  Slurm sends SIGTERM 120 seconds before the time limit: make that longer than one
# shard takes.  sbatch slurm_array.sh

set -u
config=${CLIPSIEVE_CONFIG:-/etc/clipsieve/clipsieve.toml}
part=$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT
code=0

srun clipsieve run --config "$config" --part "$part" --log-format json || code=$?

# 75: OUT is in use.  143: stopped by that signal.  What is committed is not done again.
case $code in
75 | 143)
    if [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; then
        scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    fi
    ;;
esac
exit "$code"
