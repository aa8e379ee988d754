#!/usr/bin/env bash
# Runs parity on two and on four CPU processes and writes docs/parity.md with its tables and plots.
#
#   bash scripts/record_parity.sh

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
use_environment ""
for processes in 2 4; do
    # 3 says that a run differs, which the table shows.
    python -m vit_colossal parity --nproc $processes --output-dir "runs/parity-$processes" || [ $? = 3 ]
done
# Only now: before, the second run would be noted as one of changed files.
for processes in 2 4; do
    cp "runs/parity-$processes/parity.png" "docs/parity-$processes.png"
done
{
    echo "# The same training in every layout"
    echo
    echo "Written by \`bash scripts/record_parity.sh\`. The job: digits, vit-micro from scratch, AdamW,"
    echo "batch 16, 50 steps, learning rate 1e-3, one thread per process, CPU over gloo. Beside what is"
    echo "said below the tables: several replicas of several micro-batches are added per replica first,"
    echo "in the plain loop one after another, so pp x dp differs in the last bits."
    echo
    echo "The tables of torch 2.5.1 and transformers 4.51.3 are in [records/torch-2.5.1](records/torch-2.5.1/parity.md). The"
    echo "verdicts are the same; losses and accuracies are others, for transformers 5 draws the first weights of a"
    echo "model from scratch in another order (the same seed gave another sum of the classifier's weights). zero1 and"
    echo "hybrid were then clipped by another formula than PyTorch's, so their clipped rows were not identical."
    for processes in 2 4; do
        echo
        echo "## $processes processes"
        echo
        cat "runs/parity-$processes/parity.md"
        echo
        echo "![losses and their differences, $processes processes](parity-$processes.png)"
    done
} >docs/parity.md
