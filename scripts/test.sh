#!/usr/bin/env bash
# Everything that has to hold before a change lands: dependencies, format, lint, types, tests.
#
#   bash scripts/test.sh [--fast] [arguments of pytest]
#
# --fast leaves out the tests marked slow. The exit code is that of the first check that failed.

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
selection=()
if [ "${1:-}" = --fast ]; then
    selection=(-m "not slow")
    shift
fi
use_environment dev
offer_chromium

python -m vit_colossal.doctor.requirements
ruff format --check .
ruff check .
mypy

# One thread per process: the tests start up to four processes on what may be two cores.
export OMP_NUM_THREADS=1
# Decoded images of this run alone, so that no test passes on what an older version cached.
mkdir -p .cache
VIT_COLOSSAL_CACHE=$(mktemp -d "$PROJECT/.cache/test.XXXXXX")
export VIT_COLOSSAL_CACHE
trap 'rm -rf -- "$VIT_COLOSSAL_CACHE"' EXIT
# Two at a time: while one test waits, another computes. The tests of a file stay together, as they
# share what they trained; files go out in their order, not those of the fewest tests last, which are
# the longest ones. The bound is for one test, and far above what any takes: it ends a hang, it
# judges no speed.
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --timeout 900 --durations 40 "${selection[@]}" "$@"
