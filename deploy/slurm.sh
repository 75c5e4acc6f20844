#!/bin/bash
# A search on a Slurm cluster: the same command on every node; Ray starts, the first node runs the search, Ray stops.
#   sbatch deploy/slurm.sh                       the search set up below
#   sbatch deploy/slurm.sh --trials 200 --resume options of `hpsearch search`
#SBATCH --job-name=greenprune
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=04:00:00
# Slurm's notice before the time is up: the search then leaves its trials stored and can be resumed.
#SBATCH --signal=B:TERM@120
set -euo pipefail

# Both folders are shared by all nodes: the first holds this repository with its .venv (`make install`).
repository=${GREENPRUNE_REPOSITORY:-$SLURM_SUBMIT_DIR}
export HPSEARCH_STORAGE_PATH=${HPSEARCH_STORAGE_PATH:-$SLURM_SUBMIT_DIR/runs}
export HPSEARCH_SPACE=${HPSEARCH_SPACE:-cifar10}
export HPSEARCH_TRIALS=${HPSEARCH_TRIALS:-64}
export HPSEARCH_GPUS_PER_TRIAL=${HPSEARCH_GPUS_PER_TRIAL:-0.25}
export HPSEARCH_CPUS_PER_TRIAL=${HPSEARCH_CPUS_PER_TRIAL:-1}
export PATH=$repository/.venv/bin:$PATH

head_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head_ip=$(srun --nodes=1 --ntasks=1 --nodelist="$head_node" hostname --ip-address | awk '{print $1}')

# In the background and waited for, so that this shell can pass Slurm's notice on: to the search alone, which needs Ray
# to let its trials keep their states. A signal to the whole step would end Ray at the same moment.
srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" \
    ray symmetric-run --address "$head_ip:6379" --min-nodes "$SLURM_NNODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats \
    -- python "$repository/hpsearch/run.py" "$@" &
step=$!
trap 'pkill -TERM -f "^python $repository/hpsearch/run.py" || true' TERM
# a trapped signal ends `wait` before the step has ended
result=0
while wait "$step" || result=$?; kill -0 "$step" 2>/dev/null; do result=0; done
exit "$result"
