#!/bin/bash
# Layer 3: slurmsia's dependencies, and its entry points as an editable install of /opt/slurmsia/project.
# The cluster mounts the checkout there, so a change of code needs no new image.
set -euo pipefail
project=/opt/slurmsia/project
mkdir -p "$project"
cp -a /host/skeleton/. "$project/"
/opt/slurmsia/venv/bin/pip install -q -e "${project}[postgresql,test]"
for command in slurmsia slurmsia-daemon; do
    ln -sf "/opt/slurmsia/venv/bin/$command" "/usr/local/bin/$command"
done
rm -rf "$project"
mkdir -p "$project"
