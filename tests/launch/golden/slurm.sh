#!/bin/bash
# sbatch FILE
#SBATCH --job-name=ef-vla-oxe
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=2-00:00:00
#SBATCH --partition=gpu
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -eu
trap : TERM  # this shell outlives the signal that goes to the processes
cd /home/lab/vla_jax
if [ ! -x .venv/bin/python ]; then
    if python=$(command -v python3.12 || command -v python3.11); then
        "$python" -m venv .venv
    else
        python3 -m pip install --quiet uv && python3 -m uv venv --quiet --seed --python 3.12 .venv
    fi
fi
.venv/bin/python -m pip install --quiet -r requirements-cuda.txt
failures=/mnt/runs/ef_vla_oxe/logs/failures-$SLURM_JOB_ID
export JAX_LOCAL_DEVICE_IDS=0,1,2,3,4,5,6,7  # one process a node, for all of its GPUs
code=0
srun --ntasks-per-node=1 --cpus-per-task=64 --kill-on-bad-exit=0 --wait=120 \
    .venv/bin/python train.py --config configs/ef_vla_oxe.py --run-dir /mnt/runs/ef_vla_oxe --data.root gs://oxe --data.cache /mnt/runs/cache --policy.clip-weights /mnt/runs/clip --tokenizer.path /mnt/runs/clip --batch-size 1024 || code=$?
case $code in
    0 | 2) exit "$code" ;;
    75) ;;
    *)
        mkdir -p "$(dirname "$failures")"
        echo "$code" >>"$failures"
        if [ "$(wc -l <"$failures")" -gt 10 ]; then exit "$code"; fi
        ;;
esac
scontrol requeue "$SLURM_JOB_ID"
