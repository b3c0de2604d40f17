#!/usr/bin/env bash
# Prepare a checkout: system packages, .venv, dependencies, C modules.
#
# usage: tools/setup.sh [--lint|--fuzz|--has-fuzzer]
#
# --lint also wants clang-format, clang-tidy and systemd-analyze, --fuzz clang with libFuzzer.
# --has-fuzzer prepares nothing: exits with 0 if clang with libFuzzer is installed.
#
# Safe to repeat and quick when nothing changed: each step compares a stamp in .venv with a hash
# of its inputs. Never asks a question. Installs missing system packages through apt if it runs as
# root or sudo needs no password; otherwise prints the command to type and exits with 1.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VENV=.venv
lint=false fuzz=false
[[ "${1:-}" == --lint ]] && lint=true
[[ "${1:-}" == --fuzz ]] && fuzz=true

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# --- Python -------------------------------------------------------------------------------------

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Complete = can make a virtual environment and compile against its own headers.
is_complete() {
    "$1" - 2>/dev/null <<'PY'
import ensurepip, os, sys, sysconfig, venv
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))
PY
}

# Print the interpreter to use: the first complete one, otherwise the first that apt can complete.
# Only the distribution's own interpreters (/usr/bin) match the headers that apt installs.
choose_python() {
    local name path fallback=
    for name in python3 python3.11 python3.12 python3.13 /usr/bin/python3; do
        path=$(command -v "$name") || continue
        is_new_enough "$path" || continue
        if is_complete "$path"; then
            echo "$path"
            return
        fi
        [[ -z "$fallback" && "$path" == /usr/bin/* ]] && fallback=$path
    done
    echo "${fallback:-none}"
}

# --- System packages ----------------------------------------------------------------------------

has_libfuzzer() {
    command -v clang >/dev/null && compgen -G \
        "$(clang -print-resource-dir)/lib/*/libclang_rt.fuzzer[-.]*" >/dev/null
}

if [[ "${1:-}" == --has-fuzzer ]]; then
    has_libfuzzer
    exit
fi

missing_packages() {
    local python=$1 version
    if ! is_complete "$python"; then
        # python3 -> python3-dev, python3.13 -> python3.13-dev
        version=$(basename "$python")
        echo "$version-dev $version-venv"
    fi
    command -v gcc >/dev/null && [[ -e /usr/include/stdio.h ]] || echo gcc libc6-dev
    command -v make >/dev/null || echo make
    command -v pkg-config >/dev/null || echo pkg-config
    pkg-config --exists 'liburing >= 2.3' 2>/dev/null || echo liburing-dev
    pkg-config --exists lmdb 2>/dev/null || echo liblmdb-dev
    pkg-config --exists 'libcrypto >= 3.0' 2>/dev/null || echo libssl-dev
    if $lint; then
        command -v clang-format >/dev/null || echo clang-format
        command -v clang-tidy >/dev/null || echo clang-tidy
        command -v systemd-analyze >/dev/null || echo systemd # for tests/unit/test_unit_files.py
    fi
    if $fuzz; then
        has_libfuzzer || echo clang libclang-rt-dev
    fi
}

install_packages() {
    local -a as_root=()
    if ((EUID != 0)); then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            as_root=(sudo -n)
        else
            die "missing system packages; run: sudo apt-get install -y $*"
        fi
    fi
    command -v apt-get >/dev/null || die "missing system packages (Debian's names): $*"
    say "installing $*"
    # A stale or empty package list fails below with a clearer message than here.
    "${as_root[@]}" apt-get update -qq || true
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >&2 ||
        die "apt-get could not install: $*"
}

# --- Stamps -------------------------------------------------------------------------------------

dependency_inputs() { sha256sum pyproject.toml setup.py tools/setup.sh; }

build_inputs() {
    dependency_inputs
    find raida_uring -name '*.[ch]' ! -name _native.c ! -name _loadgen.c -print0 |
        sort -z | xargs -0r sha256sum
    sha256sum raida_uring/*/build.py 2>/dev/null || true
}

built_modules() { find raida_uring -name '_native*.so' -o -name '_loadgen*.so'; }

# When pip cannot reach its index, it prints many lines and blames the first package.
no_packages() {
    if grep -qE '(NewConnection|ConnectTimeout|ReadTimeout|Proxy|SSL)Error|from versions: none' build/pip.log; then
        die "pip cannot reach PyPI or another configured index; its output is in build/pip.log"
    fi
    cat build/pip.log >&2
    die "pip could not install the dependencies"
}

# --- Steps --------------------------------------------------------------------------------------

mkdir -p build
exec 9>build/.setup.lock
flock 9 # two `make` at once must not build into the same .venv

python=$(choose_python)
if [[ "$python" == none ]]; then
    is_debian_python=$(command -v apt-get || true)
    [[ -n "$is_debian_python" && ! -e /usr/bin/python3 ]] || die "no Python 3.11 or newer found"
    python=/usr/bin/python3
    install_packages python3 python3-dev python3-venv
    is_new_enough "$python" || die "no Python 3.11 or newer found"
fi
# shellcheck disable=SC2207  # package names hold no blanks
packages=($(missing_packages "$python"))
((${#packages[@]} == 0)) || install_packages "${packages[@]}"

# A moved checkout or a removed interpreter leaves a .venv that no longer starts.
if ! "$VENV/bin/python" -c 'import pip' 2>/dev/null ||
    [[ "$(cat "$VENV/.stamp-place" 2>/dev/null)" != "$PWD" ]]; then
    say "making $VENV with $("$python" --version)"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
    pwd >"$VENV/.stamp-place"
fi

wanted=$(dependency_inputs)
if [[ "$(cat "$VENV/.stamp-dependencies" 2>/dev/null)" != "$wanted" ]]; then
    say "installing dependencies"
    rm -f "$VENV/.stamp-build"
    # First the build's tools, so that every later rebuild works without a network.
    "$VENV/bin/python" - pyproject.toml <<'PY' | xargs -d '\n' "$VENV/bin/pip" install -q 2>build/pip.log || no_packages
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    table = tomllib.load(file)
project = table["project"]
print(*table["build-system"]["requires"], *project["dependencies"],
      *project["optional-dependencies"]["dev"], sep="\n")
PY
    echo "$wanted" >"$VENV/.stamp-dependencies"
fi

wanted=$(build_inputs)
if [[ "$(cat "$VENV/.stamp-build" 2>/dev/null)" != "$wanted" || ! -x "$VENV/bin/raida-uring" ]]; then
    say "building"
    touch "$VENV/.build-start"
    # setuptools compiles in a fresh directory, so a changed header counts, and unlinks what it
    # replaces, so a running node keeps the module that it has loaded.
    "$VENV/bin/pip" install -q --no-build-isolation --no-deps -e .
    # Remove modules with another suffix, left from earlier builds: Python would import them.
    built_modules | while read -r module; do
        [[ "$module" -nt "$VENV/.build-start" ]] || rm -f "$module"
    done
    echo "$wanted" >"$VENV/.stamp-build"
fi
