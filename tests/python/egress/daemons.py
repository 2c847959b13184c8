"""The servers of the test's world that are programs of their own: databases, a broker, and git behind SSH."""

import atexit
import glob
import os
import pwd
import shutil
import socket
import subprocess
import time

from names import GOOD

READY_S = 30
POSTGRES = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]


class Daemons:
    def __init__(self, folder, canary):
        self.folder, self.canary = folder, canary
        self.running = []
        atexit.register(self.stop)
        self.start_redis()
        self.start_mosquitto()
        self.start_sshd()
        self.start_postgres()
        for port in [6379, 1883, 22, 5432]:
            wait_for(GOOD, port)

    def sizes(self):
        """How much each has written by now."""
        return {name: os.path.getsize(f"{self.folder}/{name}") for name in os.listdir(self.folder) if name.endswith(".log")}

    def lines_since(self, sizes):
        lines = []
        for name, size in self.sizes().items():
            with open(f"{self.folder}/{name}", errors="replace") as log:
                log.seek(sizes.get(name, 0))
                lines += [f"{name.removesuffix('.log')}: {line.rstrip()}" for line in log]
        return lines

    def run(self, *command, **more):
        out = open(f"{self.folder}/{os.path.basename(command[0])}.log", "ab")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **more)
        self.running.append(process)

    def stop(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        if self.made_run:
            os.rmdir("/run/sshd")

    def start_redis(self):
        with open(f"{self.folder}/redis.conf", "w") as out:
            out.write(f'bind {GOOD}\nsave ""\ndir {self.folder}\nrequirepass redis-{self.canary}\nuser plain on >plain ~* &* +@all\n')
            out.write(f"user test on >redis-{self.canary} ~* &* +@all\n")
        self.run("redis-server", f"{self.folder}/redis.conf")

    def redis(self, *command):
        environment = {**os.environ, "REDISCLI_AUTH": f"redis-{self.canary}"}
        return subprocess.run(["redis-cli", "-h", GOOD, *command], env=environment, capture_output=True, text=True, check=True).stdout.strip()

    def start_mosquitto(self):
        passwords = f"{self.folder}/mosquitto.passwords"
        subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "test", f"mqtt-{self.canary}"], check=True, capture_output=True)
        with open(f"{self.folder}/mosquitto.conf", "w") as out:
            out.write(f"per_listener_settings true\nuser root\nlistener 1883 {GOOD}\nallow_anonymous false\npassword_file {passwords}\n")
            out.write(f"listener 1884 {GOOD}\nallow_anonymous true\n")
        self.run("mosquitto", "-v", "-c", f"{self.folder}/mosquitto.conf")

    def start_sshd(self):
        """git's account is root's, with keys, a configuration and host keys of the test's own."""
        for name in ["ssh_host", "upstream", "inside"]:
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", f"{self.folder}/{name}"], check=True)
        shutil.copy(f"{self.folder}/upstream.pub", f"{self.folder}/authorized_keys")
        with open(f"{self.folder}/authorized_keys", "a") as out:
            subprocess.run(["cat", f"{self.folder}/inside.pub"], stdout=out, check=True)
        # Whom the proxy logs in as is one that the sandbox's own key does not open.
        shutil.copy(f"{self.folder}/upstream.pub", f"{self.folder}/authorized_keys.upstream")
        for port, keys in [(22, "authorized_keys"), (2222, "authorized_keys.upstream")]:
            with open(f"{self.folder}/sshd.{port}", "w") as out:
                out.write(
                    f"ListenAddress {GOOD}\nPort {port}\nHostKey {self.folder}/ssh_host\nAuthorizedKeysFile {self.folder}/{keys}\nPidFile none\n"
                    "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
                )
        self.made_run = not os.path.exists("/run/sshd")
        os.makedirs("/run/sshd", exist_ok=True)
        for port in [22, 2222]:
            self.run("/usr/sbin/sshd", "-D", "-e", "-f", f"{self.folder}/sshd.{port}")
        with open(f"{self.folder}/ssh_host.pub") as key:
            self.host_key = " ".join(key.read().split()[:2])

    def make_repository(self):
        bare, tree = f"{self.folder}/repositories/project.git", f"{self.folder}/tree"
        git = ["git", "-c", "user.name=test", "-c", "user.email=test@good.test", "-c", "init.defaultBranch=main"]
        for command in [
            [*git, "init", "-q", tree],
            [*git, "-C", tree, "commit", "-q", "--allow-empty", "-m", "the first commit"],
            [*git, "clone", "-q", "--bare", tree, bare],
        ]:
            subprocess.run(command, check=True, capture_output=True)

    def start_postgres(self):
        """Refuses to be root."""
        user = pwd.getpwnam("postgres")
        data = f"{self.folder}/postgres"
        os.mkdir(data, 0o700)
        os.chown(data, user.pw_uid, user.pw_gid)
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": data}
        made = [f"{POSTGRES}/initdb", "-D", f"{data}/main", "-U", "app", "--auth=trust", "--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C"]
        subprocess.run(made, check=True, capture_output=True, **as_user)
        with open(f"{data}/main/pg_hba.conf", "a") as out:
            out.write("host all all 0.0.0.0/0 trust\n")
        options = {"listen_addresses": GOOD, "port": 5432, "unix_socket_directories": data, "fsync": "off", "log_statement": "all"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self.run(f"{POSTGRES}/postgres", "-D", f"{data}/main", *settings, **as_user)


def wait_for(address, port):
    until = time.monotonic() + READY_S
    while True:
        try:
            return socket.create_connection((address, port), 5).close()
        except OSError:
            assert time.monotonic() < until, f"nobody listens at {address}:{port}"
            time.sleep(0.05)
