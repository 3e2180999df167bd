#!/usr/bin/env bash
# FSDP2 on two nodes of eight GPUs:   sbatch configs/accelerate/slurm.sh configs/340m-softpick.yaml name=softpick
# Prepare the data first, on a node with network:   python -m data prepare CONFIG.yaml
#SBATCH --job-name=attention-zoo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
set -euo pipefail

FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export FIRST
# One launcher per node; its number there is known on the node only, hence the inner shell.
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch \
    --config_file configs/accelerate/fsdp2-nodes.yaml \
    --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$FIRST" \
    train.py "$@" --resume' launch "$@"
