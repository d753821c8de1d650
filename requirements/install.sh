#!/bin/sh
# requirements/install.sh local|dev
# Makes .venv with what requirements/<name>.txt locks, or leaves it alone if it is up to date. Every failure is one line.
# PYTHON names an interpreter to prefer.
set -eu
cd "$(dirname "$0")/.."
name=$1
lock=requirements/$name.txt
log=.venv/install.log

fail() {
    echo "notify: $*" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ] && ! "$PYTHON" -c '' >/dev/null 2>&1; then
        fail "PYTHON=$PYTHON cannot be run"
    fi
    too_old=
    without_venv=
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if ! is_new_enough "$candidate"; then
            version=$("$candidate" -V 2>&1) || continue
            too_old="${too_old:-$candidate is $version}"
        elif ! "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            without_venv=${without_venv:-$candidate}
        else
            python=$candidate
            return
        fi
    done
    if [ -n "$without_venv" ]; then
        version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$without_venv has no venv module: install it (Debian, Ubuntu: apt-get install python$version-venv)"
    fi
    fail "Python 3.11 or newer is needed${too_old:+, but $too_old}: install one, or name it: make run PYTHON=/path/to/python3"
}

checksum() {
    cksum <"$1"
}

is_installed() {
    [ -f ".venv/.installed-$1" ] && [ "$(cat ".venv/.installed-$1")" = "$(checksum "requirements/$1.txt")" ]
}

install_lock() {
    echo "Installing $lock into .venv (once; takes a minute)"
    if .venv/bin/python -m pip install --require-hashes --no-deps --requirement "$lock" \
        --disable-pip-version-check --no-input --retries 2 --timeout 15 --progress-bar off >"$log" 2>&1; then
        return
    fi
    reason=$(grep -E '^ERROR' "$log" | head -n 1 || true)
    if grep -qE 'NewConnectionError|ConnectTimeout|ReadTimeout|NameResolutionError|SSLError|ProxyError|No matching distribution' "$log"; then
        fail "the package index cannot be reached or lacks a package: check the network and pip's index setting (PIP_INDEX_URL); ${reason:-see the log}; log: $log"
    fi
    fail "pip could not install $lock: ${reason:-see the log}; log: $log"
}

if [ -e .venv ] && ! is_new_enough .venv/bin/python; then
    [ -f .venv/pyvenv.cfg ] || [ -z "$(ls -A .venv)" ] || fail ".venv is there but is no virtual environment: move it away"
    rm -rf .venv  # its interpreter is gone, or it was never finished
fi
if [ -f .venv/.folder ] && [ "$(cat .venv/.folder)" != "$PWD" ]; then
    rm -rf .venv  # the checkout was moved; programs in .venv/bin name the old place
fi
if [ "$name" = local ] && is_installed dev && [ -x .venv/bin/python ]; then
    exit 0  # dev holds all of local
fi
if is_installed "$name"; then
    exit 0
fi
if [ ! -d .venv ]; then
    find_python
    "$python" -m venv .venv >/dev/null 2>&1 || {
        rm -rf .venv
        fail "$python -m venv .venv failed: is the disk full, the folder writable?"
    }
fi
rm -f .venv/.installed-*
echo "$PWD" >.venv/.folder
install_lock
checksum "$lock" >".venv/.installed-$name"
