#!/bin/sh
# Installs a lock file into a virtual environment, and creates the environment if it is missing:
#
#     tools/environment.sh FOLDER LOCK_FILE
#
# Every file is checked against the hashes of the lock file. Only wheels are installed, except for
# packages that the lock file names by --no-binary. These are built with the tools that are already
# in the environment: pip would download build tools that no lock file names.
set -eu

folder=$1
lock=$2
wanted='import sys; sys.exit(sys.version_info < (3, 11))'

say() { printf '%s\n' "$*" >&2; }

# Finds $PYTHON if it is set, else the first Python on PATH that is new enough.
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
            # An active virtual environment may be the one to replace, so use its base Python.
            python=$("$candidate" -c 'import sys; print(sys._base_executable)')
            return
        fi
        without_pip=${without_pip:-$candidate}
    done
    if [ -n "$without_pip" ]; then
        say "$without_pip cannot create virtual environments: the module ensurepip or venv is missing."
        say "On Debian and Ubuntu, \`apt install python3-venv\` installs both."
    elif [ -n "${PYTHON:-}" ]; then
        say "PYTHON=$PYTHON is not a Python 3.11 or newer."
    else
        say "There is no Python 3.11 or newer on PATH."
    fi
    say "Install one, or pass the path of one: make PYTHON=/path/to/python3"
    exit 1
}

# pip does not start in an incomplete environment, or in one whose Python was removed.
if ! "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
    find_python
    say "Creating $folder with $("$python" --version)."
    "$python" -m venv --clear "$folder"
fi

started=$(date +%s)
say "Installing $lock into $folder; the first time can take a minute."
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check \
    --require-hashes --only-binary :all: --no-build-isolation --requirement "$lock"
say "$folder is ready after $(($(date +%s) - started)) s."
