#!/bin/bash
# Layer 2: the virtual environment, and pyslurm in it where the suite has one.
# Usage: pyslurm.sh VERSION|none. Builds unmodified pyslurm from the package index with pyslurm-adapter.h.
set -euo pipefail
version=$1
here=$(dirname "$0")
venv=/opt/slurmsia/venv
python3 -m venv "$venv"
"$venv/bin/pip" install -q 'setuptools>=68' wheel
if [ "$version" != none ]; then
    headers=$(mktemp -d)
    mkdir "$headers/slurm"
    cp /usr/include/slurm/*.h "$headers/slurm/"
    major=$((10#${version%%.*}))
    minor=${version#*.}
    minor=$((10#${minor%%.*}))
    number=$(printf '0x%02x%02x00' "$major" "$minor")
    sed -i -E "s/^(#define SLURM_VERSION_NUMBER) .*/\1 $number/" "$headers/slurm/slurm_version.h"
    SLURM_INCLUDE_DIR=$headers \
        SLURM_LIB_DIR=/usr/lib/$(gcc -print-multiarch) \
        CFLAGS="-O1 -I$headers -include $here/pyslurm-adapter.h" \
        PYSLURM_BUILD_JOBS=2 \
        "$venv/bin/pip" install -q "pyslurm==$version"
    rm -rf "$headers"
fi
