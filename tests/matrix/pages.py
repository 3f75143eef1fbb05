# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the steps of the pages as they are written, nothing standing in.

    python3 -m tests.matrix.pages [PART...]         as root

Each PART runs in a tree of Debian 13 of its own, made by debootstrap:

  install    docs/install.md: pip and pipx, in a tree that has only the packages that the page names
  tutorial   docs/tutorial.md: 'make demo' in a tree that has only make; then each section, in the demo's kernel
  image      docs/install.md: the Dockerfile is built by podman
  servers    README.md, which-one-when.md, the how-tos, the containers of docs/install.md, and the unit of
             examples/haproxy: with the packages of 'make deb', haproxy, nginx, pytest, podman and those images, under
             systemd, on Debian's User-Mode Linux kernel. Clients connect all the time to what is restarted or
             reloaded, and none may be refused or reset.

podman runs as root, through Debian's package podman-docker, which has the command docker. The trees stay in
build/matrix until what belongs in them changes. What the steps print is in build/matrix/PART.log. The exit status is 1
if something failed.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.matrix.trees import BUILD, ROOT, Failed, build, copy_project, in_guest, inside, make_tree, run
from tests.support.doc_blocks import Block, blocks

RELEASE = "trixie"
PLACE = "root/libnlplug"
HERE = Path(__file__).resolve().parent
NAMED = ("python3", "python3-venv", "python3-dev", "gcc", "libnl-3-200", "libnl-route-3-200")  # by docs/install.md
PODMAN = ("podman", "podman-docker", "netavark", "aardvark-dns", "catatonit", "nftables", "ca-certificates")
SERVERS = (
    *("user-mode-linux", "kmod", "iproute2", "systemd", "dbus", "procps", "curl"),
    *("haproxy", "nginx", "python3", "python3-pytest", "iptables", *PODMAN),
)
WEB = """cat >/run/systemd/system/web.service <<'END OF FILE'
[Service]
ExecStart=/usr/bin/python3 -m http.server {0}
END OF FILE
systemctl daemon-reload
systemctl restart web
"""
WEB_STARTS = (
    WEB
    + """\
clients 192.0.2.1:{0} ip netns exec far
begun 192.0.2.1:{0}
"""
)
# What the Python of a page calls, and its reader has.
IN_PYTHON = {
    "docs/howto/asyncio.md": """import subprocess


def restart():
    subprocess.run(["systemctl", "restart", "web"], check=True)


""",
    "docs/howto/checkpointing.md": """import os
import time

saved = open("state", "w")


def serve(seconds):
    time.sleep(seconds)


def save():
    print("checkpoint", file=saved, flush=True)
    os.fsync(saved.fileno())


""",
}
# What a page takes for granted: by a word of the block before which it is brought about.
GRANTED = {
    "README.md": {"systemctl restart web": WEB_STARTS.format(8080)},
    "docs/which-one-when.md": {"systemctl restart web": WEB_STARTS.format(80)},
    "docs/howto/nginx.md": {
        "systemctl restart nginx": """systemctl start nginx
clients 192.0.2.1:80 ip netns exec far
begun 192.0.2.1:80
""",
    },
    "docs/howto/haproxy.md": {
        "haproxy -D": "clients 127.0.0.1:8080\n",
        "systemctl restart haproxy": """calm
kill $(cat haproxy.pid)
sed 's/127.0.0.1//' haproxy.cfg >/etc/haproxy/haproxy.cfg
systemctl start haproxy
clients 127.0.0.1:8080
clients 192.0.2.1:8080 ip netns exec far
begun 127.0.0.1:8080
begun 192.0.2.1:8080
""",
    },
    "docs/howto/asyncio.md": {"import asyncio": WEB.format(80)},
    "docs/howto/checkpointing.md": {"import libnlplug": "(cd /pages/checkpoint; pytest -rs test_tickets.py)\n"},
    "docs/howto/pytest.md": {},
    "docs/install.md": {"docker run": "docker load --quiet </pages/images.tar\n"},
    "docs/howto/containers.md": {
        "docker rm": """docker load --quiet </pages/images.tar
docker run -d --name web -p 8080:80 web
clients 192.0.2.1:8080 ip netns exec far
begun 192.0.2.1:8080
""",
    },
}
INSIDE_A_CONTAINER = """export BUILDAH_ISOLATION=chroot
cat >/etc/containers/containers.conf <<END
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=$(ulimit -Hu):$(ulimit -Hu)"]
END
"""
FOR_PODMAN = """# the nftables of User-Mode Linux lack the family inet
for name in iptables ip6tables; do update-alternatives --set $name /usr/sbin/$name-legacy; done
cat >/etc/containers/containers.conf <<END
[network]
firewall_driver = "iptables"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
END
"""
BASE = """mkdir -p /etc/containers/registries.conf.d
cat >/etc/containers/registries.conf.d/base.conf <<END
[aliases]
"debian" = "localhost/debian"
END
docker import /root/base.tar localhost/debian:13-slim
"""
WEB_IMAGE = """docker build -t web - <<'END OF FILE'
FROM libnlplug
ENTRYPOINT []
CMD ["python3", "-m", "http.server", "80"]
END OF FILE
docker tag web web:new
rm -f /root/images.tar
docker save -m -o /root/images.tar libnlplug web web:new
"""
EXAMPLE = """cat >/etc/haproxy/haproxy.cfg <<'END OF FILE'
global
    maxconn 2000
defaults
    mode http
    timeout client 10s
frontend web
    bind :8080
    http-request return status 200 content-type text/plain string "hello"
END OF FILE
units=/run/systemd/system
mkdir $units/haproxy.service.d
cp /pages/haproxy.service $units
cat >$units/haproxy.service.d/override.conf <<'END OF FILE'
[Service]
Environment="HELD=eth0 --ingress --ip-proto tcp --dst-port 8080 --tcp-syn"
END OF FILE
systemctl daemon-reload
test "$(systemctl show --value --property FragmentPath haproxy)" = $units/haproxy.service
systemctl start haproxy
clients 192.0.2.1:8080 ip netns exec far
begun 192.0.2.1:8080
for reload in 1 2 3; do systemctl reload haproxy; done
systemctl is-active haproxy
"""
ONE_PAGE = """. /pages/servers
cd $(mktemp -d)
"""
UNIT = """[Unit]
SuccessAction=exit-force
FailureAction=exit-force

[Service]
Type=oneshot
ExecStart=/bin/sh -e /pages/page
StandardOutput=file:/pages/log
StandardError=inherit
"""


def main() -> int:
    parts = {"install": install, "tutorial": tutorial, "image": image, "servers": servers}
    names = [name for words in sys.argv[1:] for name in words.split()] or list(parts)
    if not set(names) <= set(parts) or os.geteuid() != 0:
        print(f"{__doc__}\ngive some of: {', '.join(parts)}; only root can make a tree", file=sys.stderr)
        return 2
    failed = False
    for name in names:
        begun = time.monotonic()
        try:
            shown = parts[name]()
        except Failed as trouble:
            shown, failed = str(trouble), True
            print(f"{name}: failed: {trouble}", flush=True)
        else:
            print(f"{name}: passed in {time.monotonic() - begun:.0f} s", flush=True)
        (BUILD / f"{name}.log").write_text(shown)
    return 1 if failed else 0


def commands(page: str) -> Iterator[Block]:
    """The blocks of a page that are commands for a shell, files for those, or programs."""
    for block in blocks(ROOT / page):
        if block.language == "sh" or block.mark == "file" or (block.language == "python" and page in IN_PYTHON):
            yield block


def script_of(found: list[Block]) -> str:
    """The blocks as one script, which shows each command and ends with the first that fails."""
    text = "set -e\n"
    for block in found:
        text += f"echo '--- {block}'\n"
        if block.mark == "file":
            text += f"cat >{block.words} <<'END OF FILE'\n{block.text}END OF FILE\n"
        elif block.language == "python":
            called = IN_PYTHON[str(block.page.relative_to(ROOT))]
            text += f"python3 - <<'END OF FILE'\n{called}{block.text}END OF FILE\n"
        else:
            text += (f"{block.words}\n" if block.mark == "first" else "") + block.text
    return text


def install() -> str:
    """pip and pipx, as the page has them; the link is what finds the command, and uninstalling removes it."""
    tree = BUILD / f"{RELEASE}-install"
    make_tree(RELEASE, tree, (*NAMED, "pipx", "man-db"))
    copy_project(tree / PLACE)
    page = list(commands("docs/install.md"))
    (by_pip,) = [block for block in page if "/opt/libnlplug/bin/pip" in block.text]
    (by_pipx,) = [block for block in page if "pipx install" in block.text]
    uninstall = by_pipx.text.replace("install .", "uninstall libnlplug")
    text = script_of([by_pip]) + (
        "env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin libnlplug --version\n"
        "man -l /opt/libnlplug/share/man/man8/libnlplug.8 | head -n 3\n"
        "rm /usr/local/bin/libnlplug; rm -r /opt/libnlplug\n"
    )
    text += script_of([by_pipx]) + (
        "env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin libnlplug --version\n"
        f"man -w libnlplug\n{uninstall}! test -e /usr/local/bin/libnlplug\n"
    )
    return inside(tree, "sh", "-c", f"cd /{PLACE}\n{text}")


def tutorial() -> str:
    """make demo, then each section of the page in a file that begins with the two lines that make the namespace. The
    doctor may find that this host's kernel has no plug."""
    tree = BUILD / f"{RELEASE}-tutorial"
    make_tree(RELEASE, tree, ("make",))
    copy_project(tree / PLACE)
    first, check, how, *rest = commands("docs/tutorial.md")
    lab = rest[0].text.splitlines()[:2]
    assert lab[0] == "ip netns add lab", "the page's first section makes the namespace"
    sections = [[lab, *rest[:3]], [lab, *rest[3:5]], [lab, *rest[5:]]]
    text = script_of([first]) + script_of([check]).replace("libnlplug doctor", "unshare --net libnlplug doctor || true")
    for section in sections:
        two, *found = section
        lines = script_of(found)
        begin = "" if "ip netns add lab" in lines else "\n".join(two) + "\n"
        text += f"cat >first-hold <<'END OF SECTION'\n{begin}{lines}END OF SECTION\n{how.text}"
    return inside(tree, "sh", "-c", f"cd /{PLACE}\n{text}")


def image() -> str:
    """The Dockerfile is built by podman, natively. Its base is what debootstrap makes: the same packages as in Debian's
    own image, without a registry. The part servers runs the image, and one of a web server that is made from it."""
    base, tree = BUILD / f"{RELEASE}-base", BUILD / f"{RELEASE}-image"
    make_tree(RELEASE, base, ("ca-certificates",))
    make_tree(RELEASE, tree, PODMAN)
    copy_project(tree / PLACE)
    outside = [f"--exclude=./{name}" for name in ("stamp", "proc/*", "sys/*", "dev/*")]
    run(["tar", "-C", base, *outside, "-cf", tree / "root/base.tar", "."])
    found = [block for block in commands("docs/install.md") if block.mark == "file" or "docker build" in block.text]
    lines = script_of(found).splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("docker run"))
    begin = f"{INSIDE_A_CONTAINER}mount -t tmpfs run /run\n{BASE}"
    return inside(tree, "bash", "-c", f"set -e\n{begin}cd /{PLACE}\n{text}{WEB_IMAGE}")


def servers() -> str:
    """Each page in a kernel of its own."""
    tree = BUILD / f"{RELEASE}-servers"
    make_tree(RELEASE, tree, SERVERS)
    pages = tree / "pages"
    pages.mkdir(exist_ok=True)
    debs = build(RELEASE)
    for path in (*debs, HERE / "servers", BUILD / f"{RELEASE}-image/root/images.tar"):
        if not path.exists():
            raise Failed(f"{path} is not there: run the part image before")
        shutil.copy(path, pages)
    shutil.copytree(ROOT / "examples/checkpoint", pages / "checkpoint", dirs_exist_ok=True)
    inside(tree, "apt-get", "-qq", "update")
    inside(tree, "apt-get", "-qq", "install", "--reinstall", "--yes", *(f"/pages/{deb.name}" for deb in debs))
    (tree / "etc/systemd/system/pages.service").write_text(UNIT)
    inside(tree, "sh", "-ec", FOR_PODMAN)
    shown = ""
    for page, granted in GRANTED.items():
        shown += in_servers(tree, page, steps_of(page, granted))
    shutil.copy(ROOT / "examples/haproxy/haproxy.service", pages)
    return shown + in_servers(tree, "examples/haproxy/haproxy.service", EXAMPLE)


def steps_of(page: str, granted: dict[str, str]) -> str:
    """The page's commands, with what it takes for granted."""
    text = ""
    for block in commands(page):
        if block.mark == "not run":
            continue
        lines = script_of([block]).replace("docker build -t libnlplug .\n", "")  # the part image did
        text += "".join(before for word, before in granted.items() if word in block.text) + lines
    return text


def in_servers(tree: Path, name: str, text: str) -> str:
    """What the commands print."""
    log = tree / "pages/log"
    log.unlink(missing_ok=True)
    (tree / "pages/page").write_text(f"{ONE_PAGE}{text}calm\n")
    guest = [ROOT / "tools/testkernel/run", "--root", tree, "--kernel", tree / "usr/bin/linux.uml", "--mem", "4G", "--"]
    done = in_guest([*guest, "sh", "/pages/servers", "boot"], BUILD)
    printed = (log.read_text(errors="replace") if log.exists() else "") + done.stdout + done.stderr
    if done.returncode or " skipped" in printed:
        raise Failed(f"{name}: status {done.returncode}, or a test was skipped\n{printed}")
    return f"=== {name}\n{printed}"


if __name__ == "__main__":
    sys.exit(main())
