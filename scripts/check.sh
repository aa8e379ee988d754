#!/usr/bin/env bash
# What is quick to know: format, lint, types, and the unit tests that import no framework.
#
#   bash scripts/check.sh [--no-tests]
#
# Under a minute once the environment is there. The whole of it: bash scripts/test.sh

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
use_environment dev

ruff format --check .
ruff check .
mypy
if [ "${1:-}" != --no-tests ]; then
    python -m pytest --quiet --timeout 120 tests/pure
fi
