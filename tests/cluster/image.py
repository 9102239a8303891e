"""Builds the image of one suite, in layers, each named by a hash of what goes into it.

A layer is a container that runs one script of ``image/`` and is committed; the host's own pip, apt, proxy and
certificate settings are lent to it while it runs and never become part of it.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

from engine import CHECKOUT, STATE, ClusterError, docker, quiet
from suites import Suite

REPOSITORY = "slurmsia-cluster"
_SCRIPTS = Path(__file__).parent / "image"
_CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def ensure_image(suite: Suite) -> str:
    """Return the tag of the suite's image, building what is missing."""
    base = f"{REPOSITORY}:{suite.name}-base"
    if not _exists(base):
        with _said(f"{suite.name}: bare Debian root"):
            _make_base(suite, base)
    system = _layer(suite, "system", base, "system.sh", suite.slurm)
    pyslurm = _layer(suite, "pyslurm", system, "pyslurm.sh", suite.pyslurm or "none")
    parent = pyslurm
    if suite.torch:
        parent = _layer(suite, "torch", parent, "torch.sh", suite.torch)
        parent = _layer(suite, "examples", parent, "examples.sh")
    return _layer(suite, "python", parent, "dependencies.sh", skeleton=True)


def image_tags(suite: Suite) -> list[str]:
    """Return every tag of that suite on this machine, current or not."""
    out = docker("images", REPOSITORY, "--format", "{{.Tag}}").split()
    return [f"{REPOSITORY}:{tag}" for tag in out if tag.startswith(f"{suite.name}-")]


def _exists(tag: str) -> bool:
    return quiet(["docker", "image", "inspect", tag]).returncode == 0


@contextmanager
def _said(what: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"  building {what} ...", flush=True)
    yield
    print(f"  built {what} in {time.monotonic() - started:.0f} s", flush=True)


def _make_base(suite: Suite, tag: str) -> None:
    """Take the release from a registry if one answers within seconds, else bootstrap it."""
    name = f"debian:{suite.name}-slim"
    try:
        pulled = quiet(["docker", "pull", "-q", name], timeout=120).returncode == 0
    except subprocess.TimeoutExpired:
        pulled = False
    if pulled:
        docker("tag", name, tag)
        return
    if os.geteuid() != 0:
        raise ClusterError(
            f"no image registry answers for {name}, and bootstrapping a root needs root: run this command once as root"
        )
    keyring = "file:/usr/share/keyrings/debian-archive-keyring.gpg=debian-archive-keyring"
    subprocess.run([str(CHECKOUT / ".ci" / "packages"), "debootstrap=debootstrap", keyring], check=True)
    scripts = Path("/usr/share/debootstrap/scripts")
    script = scripts / suite.name
    if not script.exists():
        script = scripts / suite.debootstrap_script
    with tempfile.TemporaryDirectory(prefix="slurmsia-root-") as folder:
        root = Path(folder) / "root"
        argv = ["debootstrap", "--variant=minbase", suite.name, str(root)]
        argv += [_debian_mirror() or "", str(script)]
        log = Path(folder) / "log"
        with log.open("w") as out:
            done = subprocess.run(argv, stdout=out, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            tail = "\n".join(log.read_text().splitlines()[-5:])
            raise ClusterError(f"debootstrap of {suite.name} failed (is Debian's archive reachable?):\n{tail}")
        tar = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(["docker", "import", "-", tag], stdin=tar.stdout, stdout=subprocess.DEVNULL, check=True)
        if tar.wait() != 0:
            raise ClusterError(f"tar of the {suite.name} root failed with status {tar.returncode}")


def _debian_mirror() -> str | None:
    """Return the mirror that this machine itself uses, if it runs Debian; None takes debootstrap's own."""
    if "ID=debian" not in Path("/etc/os-release").read_text().splitlines():
        return None
    targets = quiet(["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT) $(LABEL)"])
    for line in targets.stdout.splitlines():
        uri, component, *_ = line.split()
        if component == "main" and uri.rstrip("/").endswith("/debian"):
            return uri
    return None


def _layer(suite: Suite, name: str, parent: str, script: str, *args: str, skeleton: bool = False) -> str:
    """Return the tag of a layer: ``parent`` with ``script`` run in it."""
    digest = hashlib.sha256(f"{parent}\0{script}\0{args}".encode())
    inputs = [_SCRIPTS / script]
    if name == "pyslurm" and suite.pyslurm:
        inputs.append(_SCRIPTS / "pyslurm-adapter.h")
    for path in inputs:
        digest.update(path.read_bytes())
    if skeleton:
        digest.update(_what_is_installed().encode())
    tag = f"{REPOSITORY}:{suite.name}-{name}-{digest.hexdigest()[:12]}"
    if _exists(tag):
        return tag
    STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="layer-", dir=STATE) as folder, _said(f"{suite.name}: layer {name}"):
        if skeleton:
            _write_skeleton(Path(folder) / "skeleton")
        log = STATE / f"build-{suite.name}-{name}.log"
        _run_and_commit(parent, tag, [f"/host/image/{script}", *args], Path(folder), log)
    return tag


def _run_and_commit(parent: str, tag: str, argv: list[str], lent: Path, log: Path) -> None:
    shutil.copytree(_SCRIPTS, lent / "image")
    run = ["docker", "run", "--network", "host", "-v", f"{lent}:/host:ro", *_pip_settings(lent)]
    certificates = 'Acquire::https::CaInfo "/host/ca.crt";\n' if (lent / "ca.crt").exists() else ""
    (lent / "apt.conf").write_text(_apt_settings() + certificates)
    cid_file = lent / "container-id"
    try:
        with log.open("w") as out:
            done = subprocess.run(
                [*run, "--cidfile", str(cid_file), parent, *argv], stdout=out, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode != 0:
            tail = "\n".join(f"    {line}" for line in log.read_text().splitlines()[-12:])
            raise ClusterError(
                f"building {tag} failed (needs Debian's archive and the Python package index); "
                f"the whole log is {log}, its end:\n{tail}"
            )
        docker("commit", "-c", "ENV PIP_DISABLE_PIP_VERSION_CHECK=1", cid_file.read_text(), tag)
    finally:
        if cid_file.exists():
            quiet(["docker", "rm", "-f", cid_file.read_text()])


def _apt_settings() -> str:
    """Return this machine's own apt transport settings (proxy, certificates, validity dates)."""
    if shutil.which("apt-config") is None:
        return ""
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv")
    lines = quiet(["apt-config", "dump"]).stdout.splitlines()
    kept = [line for line in lines if line.startswith(wanted) and "/" not in line.split(" ", 1)[1]]
    proxies = [line for line in lines if line.startswith(wanted) and "Proxy" in line]
    return "\n".join([*kept, *proxies, 'Acquire::Languages "none";', ""])


def _pip_settings(lent: Path) -> list[str]:
    """Return docker-run options that give a build this machine's pip, proxy and certificate settings."""
    options: list[str] = []
    bundle = next(
        (path for path in (*map(os.environ.get, _CA_VARIABLES), *_CA_BUNDLES) if path and Path(path).is_file()), None
    )
    for name, value in os.environ.items():
        if name in _CA_VARIABLES:
            continue
        if name.startswith("PIP_") or name.lower() in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
            options += ["-e", f"{name}={value}"]
    if bundle:
        shutil.copyfile(bundle, lent / "ca.crt")
        options += [word for name in _CA_VARIABLES for word in ("-e", f"{name}=/host/ca.crt")]
    files = _pip_files()
    merged = configparser.RawConfigParser()
    merged.read([path for path in files if Path(path).is_file()])
    for section in merged.sections():
        merged.remove_option(section, "cert")
    with (lent / "pip.conf").open("w") as out:
        merged.write(out)
    options += ["-e", "PIP_CONFIG_FILE=/host/pip.conf", "-e", "PIP_NO_CACHE_DIR=1", "-e", "PIP_ROOT_USER_ACTION=ignore"]
    words = [word for section in merged.sections() for _, value in merged.items(section) for word in value.split()]
    own = {name: value for name, value in os.environ.items() if name.startswith("PIP_") and name not in _CA_VARIABLES}
    words += [word for value in own.values() for word in value.split()]
    for path in sorted({_local_path(word) for word in words} - {None}):
        options += ["-v", f"{path}:{path}:ro"]
    return options


def _pip_files() -> list[str]:
    """Return pip's configuration files in the order in which later ones win."""
    debug = quiet([sys.executable, "-m", "pip", "config", "debug"]).stdout
    files = [line.split(", exists:")[0].strip() for line in debug.splitlines() if line.endswith("exists: True")]
    return [*files, *filter(None, [os.environ.get("PIP_CONFIG_FILE")])]


def _local_path(word: str) -> str | None:
    """Return the folder or file (constraints) of this machine that a pip setting names: the build is to see it, too."""
    path = Path(urlparse(word).path) if word.startswith("file://") else Path(word)
    if not path.is_absolute() or not path.exists():
        return None
    # A "simple" index links to files beside it.
    return str(path.parent if word.startswith("file://") and len(path.parts) > 2 else path)


def _what_is_installed() -> str:
    """Return what of setup.cfg an editable install depends on: dependencies, extras, entry points, folders."""
    config = configparser.RawConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    chosen = {
        "requires": config.get("options", "install_requires"),
        "folders": config.get("options", "package_dir"),
        "extras": {name: config.get("options.extras_require", name) for name in ("postgresql", "test")},
        "entry points": dict(config.items("options.entry_points")),
    }
    return json.dumps(chosen, sort_keys=True)


def _write_skeleton(folder: Path) -> None:
    """Write the checkout's package folders with empty modules: enough to install it, too little to go stale."""
    for name in ("setup.cfg", "pyproject.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / name, folder / name)
    for name in ("README.md", "LICENSE"):
        (folder / name).touch()
    config = configparser.RawConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    places = dict(line.split(" = ") for line in config.get("options", "package_dir").strip().splitlines())
    for package in config.get("options", "packages").split():
        top, _, rest = package.partition(".")
        place = folder / places[top] / rest.replace(".", "/")
        place.mkdir(parents=True, exist_ok=True)
        (place / "__init__.py").touch()


def describe(suite: Suite) -> str:
    """Return one line per image of the suite with its size."""
    return "\n".join(
        f"{tag} {int(docker('image', 'inspect', '-f', '{{.Size}}', tag)) / 1e6:.0f} MB" for tag in image_tags(suite)
    )
