#!/bin/sh
# Brings a virtual environment to what a lock file says, and makes it first where there is none:
#
#     tools/environment.sh FOLDER LOCK_FILE
#
# Everything is checked against the hashes of the lock file, and only wheels are taken: building
# a source archive would fetch its build tools, which no lock file names.
set -eu

folder=$1
lock=$2
wanted='import sys; sys.exit(sys.version_info < (3, 11))'

say() { printf '%s\n' "$*" >&2; }

# $PYTHON where it is set, or else the first one on PATH that is new enough.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.14 python3.13 python3.12 python3.11
    fi
    without_pip=
    for candidate; do
        "$candidate" -c "$wanted" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            # In an active environment this names what it was made with: it may be the very
            # environment that is made anew.
            python=$("$candidate" -c 'import sys; print(sys._base_executable)')
            return
        fi
        without_pip=${without_pip:-$candidate}
    done
    if [ -n "$without_pip" ]; then
        say "$without_pip cannot make virtual environments: it lacks the module ensurepip or venv."
        say "On Debian and Ubuntu \`apt install python3-venv\` brings both."
    elif [ -n "${PYTHON:-}" ]; then
        say "PYTHON=$PYTHON is not a Python 3.11 or newer."
    else
        say "There is no Python 3.11 or newer on PATH."
    fi
    say "Install one, or name one that is there: make PYTHON=/path/to/python3"
    exit 1
}

# An environment whose pip does not start was left half-made, or its Python has gone.
if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    find_python
    say "Making $folder with $("$python" --version)."
    "$python" -m venv --clear "$folder"
fi

started=$(date +%s)
say "Installing into $folder what $lock names; the first time can take a minute."
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    --require-hashes --only-binary :all: --requirement "$lock"
say "$folder is ready after $(($(date +%s) - started)) s."
