#!/bin/bash
# Layer 1 of the cluster image: Slurm, MariaDB, PostgreSQL, Python and a compiler, on a bare Debian root.
# Usage: system.sh SLURM_MAJOR. Fails with one sentence when the archive carries another Slurm.
set -euo pipefail
expected=$1
export DEBIAN_FRONTEND=noninteractive

printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/slurmsia
printf 'path-exclude=/usr/share/%s/*\n' doc man locale info >>/etc/dpkg/dpkg.cfg.d/slurmsia
if [ -s /host/apt.conf ]; then cp /host/apt.conf /etc/apt/apt.conf.d/99host; fi

apt-get update -q
apt-get install -y -q --no-install-recommends \
    slurmctld slurmd slurmdbd slurm-client slurm-wlm-basic-plugins libslurm-dev \
    munge mariadb-server postgresql python3-venv python3-dev gcc libc6-dev procps lua5.4

found=$(slurmctld -V | awk '{print $2}')
case "$found" in
"$expected".*) ;;
*)
    echo "This suite is defined by Slurm $expected, but Debian's archive now gives Slurm $found:" \
        "correct tests/cluster/suites.py, or use a mirror that still has $expected." >&2
    exit 3
    ;;
esac

# The same ids in every container and every release, whatever Debian assigned.
[ "$(id -u slurm)" = 64030 ] || { usermod -u 64030 slurm && groupmod -g 64030 slurm; }
for person in alice:2001 bob:2002; do
    groupadd -g "${person#*:}" "${person%:*}"
    useradd -u "${person#*:}" -g "${person#*:}" -M -d "/home/${person%:*}" -s /bin/bash "${person%:*}"
done

apt-get clean
rm -rf /var/lib/apt/lists/* /etc/apt/apt.conf.d/99host /etc/munge/munge.key
