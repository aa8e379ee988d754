# Sourced by run_demo.sh and test.sh, which run from any folder: goes to the project's root and
# defines use_environment. Needs bash and Python 3.11, 3.12 or 3.13, nothing else.
#
# VIT_COLOSSAL_VENV names another environment folder. One that exists is used as it is: nothing is
# installed into it, and this checkout's code is put in front of whatever it has.

set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
PROJECT=$PWD

fail() {
    echo "error: $*" >&2
    exit 1
}

# Prints the interpreter to build the environment with.
find_python() {
    local python
    for python in python3.11 python3.12 python3.13 python3; do
        if "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found on the PATH: install one, such as with 'apt install python3.11'"
}

# create_venv PYTHON FOLDER; replaces what an interrupted attempt or a moved project left there.
create_venv() {
    if ! "$1" -c 'import ensurepip' 2>/dev/null; then
        # Debian and Ubuntu ship venv without it, in a package of its own.
        local package
        package=python$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            echo "installing $package, which 'python -m venv' needs here"
            apt-get update -qq >/dev/null || true
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null ||
                DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null || true
        fi
        "$1" -c 'import ensurepip' 2>/dev/null ||
            fail "$1 cannot create environments (no ensurepip): apt install python3-venv (or $package)"
    fi
    "$1" -m venv --clear "$2" || fail "creating the environment $2 failed"
}

# A folder that was moved, or left half made, has an interpreter but not a working pip.
is_whole() {
    grep -qF "$1" "$1/bin/activate" 2>/dev/null && "$1/bin/python" -m pip --version >/dev/null 2>&1
}

# use_environment EXTRAS ('' or 'dev'): afterwards 'python' and the tools are the environment's.
use_environment() {
    local venv=$PROJECT/.venv
    if [ -n "${VIT_COLOSSAL_VENV:-}" ]; then
        venv=$(realpath -m -- "$VIT_COLOSSAL_VENV")
    fi
    if [ -n "${VIT_COLOSSAL_VENV:-}" ] && [ -x "$venv/bin/python" ]; then
        echo "environment: $venv, as it is (VIT_COLOSSAL_VENV)"
        export PYTHONPATH=$PROJECT/src${PYTHONPATH:+:$PYTHONPATH}
    else
        install_environment "$venv" "$1"
    fi
    export VIRTUAL_ENV=$venv PATH=$venv/bin:$PATH
    hash -r
    python -c 'import vit_colossal.cli' ||
        fail "$venv cannot import vit_colossal: delete that folder and start again"
}

# What decides what is installed, and how.
INSTALL_INPUTS=(setup.py pyproject.toml scripts/environment.sh src/vit_colossal/runtime/colossalai.txt)

# install_environment FOLDER EXTRAS: does nothing when the same was installed there before.
install_environment() {
    local venv=$1 extras=$2 stamp=$1/installed-by-scripts target=. hash python colossalai
    hash=$(cat "${INSTALL_INPUTS[@]}" | sha256sum | cut -d ' ' -f 1)
    # 'dev' contains all that the plain installation has.
    if is_whole "$venv" && grep -qsE "^$hash ($extras|dev)\$" "$stamp"; then
        echo "environment: $venv, as installed before"
        return
    fi
    if ! is_whole "$venv"; then
        python=$(find_python)
        create_venv "$python" "$venv"
    fi
    rm -f -- "$stamp"
    [ -z "$extras" ] || target=".[$extras]"
    colossalai=$(grep -m 1 '^colossalai==' src/vit_colossal/runtime/colossalai.txt)
    echo "environment: installing into $venv; the first time takes 2 minutes or more and about 6.5 GB"
    local pip=("$venv/bin/python" -m pip --quiet --no-input --disable-pip-version-check)
    local install=("${pip[@]}" install --progress-bar off --root-user-action ignore)
    # An old pip builds ColossalAI in a way that it warns about itself. ColossalAI comes last and
    # without what it requires: pip would obey its pins, or call them errors if it were there already.
    "${install[@]}" --upgrade pip &&
        "${pip[@]}" uninstall --yes --root-user-action ignore colossalai 2>/dev/null &&
        "${install[@]}" -e "$target" && "${install[@]}" --no-deps "$colossalai" ||
        fail "installing into $venv failed (above): it needs a package index and about 6.5 GB of disk"
    echo "$hash $extras" >"$stamp"
}

# The reports are tested in a real browser. Debian's is installed where that can be done quietly;
# elsewhere that test is skipped, and says so.
offer_chromium() {
    command -v chromium chromium-browser google-chrome >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing chromium, which the report's test opens"
        apt-get update -qq >/dev/null 2>&1 || true
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium \
            >/dev/null 2>&1 || true
    fi
    command -v chromium >/dev/null || echo "no chromium here: the report's test will be skipped"
}
