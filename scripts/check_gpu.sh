#!/usr/bin/env bash
# Proves the CUDA path on this machine: training, parity, resuming, exports, speed, offloading.
#
#   bash scripts/check_gpu.sh [--only PART[,PART]] [--output-dir DIR] [--device cpu --tiny]
#
# Nothing is downloaded but what the environment itself may lack. Where that cannot be installed and
# the packages are there already, `python scripts/check_gpu.py` does the same. See docs/gpu.md.

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
use_environment ""
exec python scripts/check_gpu.py "$@"
