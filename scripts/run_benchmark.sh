#!/usr/bin/env bash
# Runs the standard benchmark and records it under benchmarks/results/: NAME.json, NAME.md, NAME.png.
#
#   bash scripts/run_benchmark.sh [NAME] [flags of vit-colossal bench]
#
# NAME is cpu or gpu when not given: the set for two CPU processes, or with a CUDA device the one for
# one GPU. Both leave the machine busy: run nothing beside them. A run that was ended goes on where
# it was when started with the same name on the same commit; --overwrite starts it anew. The CPU set
# takes an hour and a half on two cores.

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
use_environment ""
unset OMP_NUM_THREADS

set_of_cases=cpu
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    set_of_cases=gpu
fi
name=$set_of_cases
case "${1:-}" in
'' | -*) ;;
*)
    name=$1
    shift
    ;;
esac
folder=runs/bench-$name
mkdir -p "$folder"

# 3 says that cases which do the same work have other losses, which the record shows.
python -m vit_colossal bench --cases "benchmarks/$set_of_cases.yaml" --output-dir "$folder" "$@" ||
    [ $? = 3 ]
if [ "$set_of_cases" = cpu ]; then
    for part in paired:paired startup:startup data_rates:data short_job:short_job predict_rate:predict; do
        output=$folder/${part#*:}.json
        [ -e "$output" ] || python "benchmarks/${part%:*}.py" --output "$output"
    done
fi
page=()
[ "$name" != cpu ] || page=(--page docs/strategies.md)
python benchmarks/bars.py "$folder" --record "benchmarks/results/$name" "${page[@]}"
echo "recorded in benchmarks/results/$name.md"
