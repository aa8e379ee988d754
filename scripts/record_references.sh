#!/usr/bin/env bash
# Measures the digits entries of src/vit_colossal/rundir/references.yaml anew and writes them: five seeds in
# two pipeline stages, five in the plain loop. The run directories stay in runs/references.
#
#   bash scripts/record_references.sh

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
use_environment ""
config=configs/digits_cpu_pp2.yaml
runs=runs/references

# record NAME COMMAND: runs the command for seeds 1 to 5, one at a time, and writes the entry.
record() {
    local name=$1 command=$2 seed
    for seed in 1 2 3 4 5; do
        echo "$name, seed $seed"
        # The command is one of those below, split at its blanks.
        # shellcheck disable=SC2086
        ${command//SEED/$seed} --output-dir "$runs/$name-$seed" --overwrite
    done
    python -m vit_colossal check --record "$name" --command "$command" "$runs/$name"-[1-5]
}

record digits-pp2 "python train.py --nproc 2 --config $config --seed SEED"
record digits-plain "python scripts/plain_run.py --config $config --seed SEED"
