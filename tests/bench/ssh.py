"""The same comparison with every store on the other end of a real sshd on loopback.

The server, its keys and its users' files are made for the run and end with it. Beside the big files a raw
`ssh nas 'cat > file'` shows what the line itself takes.
"""

import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import time

from image import home, run, verdict

RAW = "cat"
DDR = ("ddr", "ddr-openssh")
PEERS = ("rsync", "rclone", "restic", "borg")


@contextlib.contextmanager
def sshd(place, path):
    """Yields the client's configuration file for the host `nas`; `path` goes before the server's PATH."""
    server = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/lib/ssh") or sys.exit("no sshd here")
    place.mkdir()
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    (place / "authorized").write_bytes((place / "id.pub").read_bytes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = " ".join(f"{k}={v}" for k, v in home(place / "home").items() if k not in ("PATH", "NO_COLOR"))
    (place / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {place}/host\nAuthorizedKeysFile {place}/authorized\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n"
        "KbdInteractiveAuthentication no\nUseDNS no\nPrintMotd no\nMaxStartups 100\nLogLevel ERROR\n"
        f"Subsystem sftp internal-sftp\nSetEnv PATH={path}:/usr/bin:/bin {env}\n"
    )
    public = (place / "host.pub").read_text()
    (place / "known").write_text(f"nas {public}[127.0.0.1]:{port} {public}")
    (place / "config").write_text(
        f"Host nas\n  HostName 127.0.0.1\n  Port {port}\n  HostKeyAlias nas\n  IdentityFile {place}/id\n"
        f"  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {place}/known\n  GlobalKnownHostsFile none\n"
        "  LogLevel ERROR\n"
    )
    said = open(place / "sshd.log", "wb")
    process = subprocess.Popen([server, "-D", "-e", "-f", place / "sshd_config"], stderr=said)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield place, port
    finally:
        process.terminate()
        process.wait()
        said.close()


def bench_of(base, server, port):
    """A Bench (of `compare`) whose tools all work over ssh."""

    class SshBench(base):
        def __init__(self, point, ddr, cold):
            super().__init__(point, ddr, cold)
            self.tools = [*DDR, RAW, *(t for t in PEERS if shutil.which(t))]
            for missing in set(PEERS) - set(self.tools):
                print(f"note: {missing} is not installed and is left out")
            self.config = server / "config"
            self.ssh = f"ssh -F {self.config}"

        def env(self, machine="one"):
            return {
                **super().env(machine),
                "DDR_SSH_CONFIG": str(self.config),
                "BORG_RSH": self.ssh,
                "RSYNC_RSH": self.ssh,
                "RCLONE_CONFIG": "",
                "RCLONE_SFTP_HOST": "127.0.0.1",
                "RCLONE_SFTP_PORT": str(port),
                "RCLONE_SFTP_USER": "root",
                "RCLONE_SFTP_KEY_FILE": str(server / "id"),
                "RCLONE_SFTP_KNOWN_HOSTS_FILE": str(server / "known"),
            }

        def once(self, name, source, tool, check):
            if tool == RAW:
                return self.with_pipe(name, source) if name == "big" else None
            if tool in DDR:
                self.clear()
                self.with_peer(name, source, tool, self.work / tool, self.work / "back")
                return self.same(source, self.work / "back") if check else None
            return super().once(name, source, tool, check)

        def same(self, source, back):
            compare = ["diff", "-rq", "--no-dereference", "--exclude=.ddr", str(source), str(back)]
            self.quiet(self.work, *compare)

        def with_pipe(self, name, source):
            """One stream each way, and nothing else."""
            self.clear()
            there, back = self.work / "there", self.work / "back"
            self.cache(source)
            up = f"cat {source}/* | {self.ssh} nas 'cat > {there}'"
            self.time(f"{name} in", RAW, (self.work, "sh", "-c", up))
            self.cache(self.work)
            self.time(f"{name} out", RAW, (self.work, "sh", "-c", f"{self.ssh} nas 'cat {there}' > {back}"))

        def with_peer(self, name, source, tool, store, back):
            tree = self.work / "tree"
            self.quiet(self.work, "cp", "-a", source, tree)
            self.quiet(tree, self.ddr, "init", ".")
            transport = "openssh" if tool == "ddr-openssh" else "ssh2"
            url = f"ssh://nas{store}"
            self.quiet(
                tree, self.ddr, "remote", "add", "nas", url, "--init", "--same-disk", "--transport", transport
            )
            self.cache(tree)
            self.time(f"{name} in", tool, (tree, self.ddr, "stash", "."), fine=(0, 3))
            self.cache(store)
            # In a tree small files were never away, so that stage has nobody to compare with.
            self.time("big out" if name == "big" else "in place", tool, (tree, self.ddr, "checkout", "."))
            if name == "big":
                shutil.rmtree(tree / ".ddr")
                tree.rename(back)
                return
            clone = (self.work, self.ddr, "clone", "--full", "--transport", transport, url, back)
            self.cache(store)
            self.time(f"{name} out", tool, clone, env=self.env("two"))

        def with_rsync(self, name, source, repo, back):
            self.cache(source)
            self.time(f"{name} in", "rsync", (self.work, "rsync", "-a", f"{source}/", f"nas:{repo}/"))
            self.cache(repo)
            self.time(f"{name} out", "rsync", (self.work, "rsync", "-a", f"nas:{repo}/", f"{back}/"))

        def with_rclone(self, name, source, repo, back):
            copy = ("rclone", "copy", "--links", "--create-empty-src-dirs")
            self.cache(source)
            self.time(f"{name} in", "rclone", (self.work, *copy, source, f":sftp:{repo}"))
            self.cache(repo)
            self.time(f"{name} out", "rclone", (self.work, *copy, f":sftp:{repo}", back))

        def with_restic(self, name, source, repo, back):
            command = f"{self.ssh} nas -s sftp"
            restic = ("restic", "-q", "-o", f"sftp.command={command}", "-r", f"sftp:nas:{repo}")
            self.quiet(self.work, *restic, "init")
            self.cache(source)
            self.time(f"{name} in", "restic", (source, *restic, "backup", "."))
            self.cache(repo)
            back.mkdir()
            self.time(f"{name} out", "restic", (self.work, *restic, "restore", "latest", "--target", back))

        def with_borg(self, name, source, repo, back):
            url = f"ssh://nas{repo}"
            self.quiet(self.work, "borg", "init", "--encryption=none", url)
            self.cache(source)
            self.time(f"{name} in", "borg", (source, "borg", "create", f"{url}::one", "."))
            self.cache(repo)
            back.mkdir()
            self.time(f"{name} out", "borg", (back, "borg", "extract", f"{url}::one"))

    return SshBench


def report(bench, ratio):
    """Prints the table and the targets; whether all were met by one of ddr's transports."""
    print(f"\n{'stage':12} {'tool':12} {'median s':>9} {'ddr/tool':>9} {'openssh/tool':>13}")
    for stage, tools in bench.seconds.items():
        for tool, values in tools.items():
            against = " ".join(f"{ratio(tools[ddr], values):{w}.2f}" for ddr, w in zip(DDR, (9, 13)))
            print(f"{stage:12} {tool:12} {statistics.median(values):9.2f} {against}")
    print()
    met = []
    for stage in ("tree in", "tree out", "big in", "big out"):
        tools = bench.seconds.get(stage, {})
        peers = [tools[t] for t in PEERS if t in tools]
        for ddr in DDR:
            if peers and ddr in tools:
                what = f"{stage}, {ddr} / fastest of {', '.join(PEERS)}"
                met.append(verdict(what, ratio(tools[ddr], *peers), 1.0))
            if RAW in tools and ddr in tools:
                met.append(verdict(f"{stage}, {ddr} / raw ssh cat", ratio(tools[ddr], tools[RAW]), 1.25))
    return all(met)
