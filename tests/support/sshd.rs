//! A real OpenSSH server on a loopback port, with keys, configuration and known hosts of its own.
//!
//! Promises that it ends with the test, even if that is killed: it is looked after by a shell that ends
//! it once a pipe from this process closes. Works for root and for ordinary users; says why it cannot.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server and how to reach it: host `nas` in the configuration at [`Sshd::config`].
pub struct Sshd {
    dir: PathBuf,
    port: u16,
    keeper: Option<Child>,
}

/// Why there is no server, said once where a test is passed over.
fn server() -> Result<PathBuf, String> {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/lib/ssh/sshd"];
    let found = places.iter().map(PathBuf::from).find(|p| p.exists());
    found.ok_or_else(|| "no sshd here (apt install openssh-server)".into())
}

impl Sshd {
    /// Starts one whose files are in `dir`; `None`, said aloud, where that cannot be.
    pub fn start(dir: &Path) -> Option<Self> {
        match Self::try_start(dir) {
            Ok(sshd) => Some(sshd),
            Err(why) => {
                super::say(&format!("skipped: {why}"));
                None
            }
        }
    }

    fn try_start(dir: &Path) -> Result<Self, String> {
        let program = server()?;
        std::fs::create_dir_all(dir).map_err(|e| e.to_string())?;
        if rustix::process::getuid().is_root() {
            // Where sshd puts its unprivileged half.
            std::fs::create_dir_all("/run/sshd").map_err(|e| format!("/run/sshd: {e}"))?;
        }
        keygen(dir, "host_ed25519", &["-t", "ed25519"])?;
        keygen(dir, "id", &["-t", "ed25519"])?;
        let public = std::fs::read(dir.join("id.pub")).map_err(|e| e.to_string())?;
        std::fs::write(dir.join("authorized_keys"), public).map_err(|e| e.to_string())?;
        for _ in 0..5 {
            let mut sshd = Self { dir: dir.into(), port: free_port()?, keeper: None };
            sshd.configure("")?;
            sshd.know();
            if sshd.launch(&program)? {
                return Ok(sshd);
            }
        }
        Err("sshd did not start on a free port".into())
    }

    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// The client's configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    /// A file of the server or the client.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes the client's configuration: host `nas`, and more lines for it.
    pub fn configure(&self, more: &str) -> Result<(), String> {
        self.configure_port(self.port, more)
    }

    /// The same by way of another port, such as a proxy's.
    pub fn configure_port(&self, port: u16, more: &str) -> Result<(), String> {
        let dir = self.dir.display();
        let user = user()?;
        let text = format!(
            "Host nas\n  HostName 127.0.0.1\n  Port {port}\n  HostKeyAlias nas\n{more}\n\
             Host jumped\n  HostName 127.0.0.1\n  Port {port}\n  HostKeyAlias nas\n  ProxyJump nas\n\
             Host proxied\n  HostName 127.0.0.1\n  Port {port}\n  HostKeyAlias nas\n  ProxyCommand ssh -F {dir}/config -W %h:%p nas\n\
             Host *\n  User {user}\n  IdentityFile {dir}/id\n  IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {dir}/known_hosts\n  \
             GlobalKnownHostsFile none\n  ConnectTimeout 5\n  LogLevel ERROR\n"
        );
        std::fs::write(self.config(), text).map_err(|e| e.to_string())
    }

    /// Makes the server known to the client.
    pub fn know(&self) {
        let public = std::fs::read_to_string(self.file("host_ed25519.pub")).expect("made before");
        std::fs::write(self.file("known_hosts"), format!("nas {public}")).expect("own directory");
    }

    fn server_config(&self, dir: &Path) -> String {
        let dir = dir.display();
        let path = std::env::var("PATH").unwrap_or_default();
        format!(
            "ListenAddress 127.0.0.1\nPort {}\nHostKey {dir}/host_ed25519\nAuthorizedKeysFile {dir}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n\
             KbdInteractiveAuthentication no\nUseDNS no\nPrintMotd no\nMaxStartups 100\nMaxSessions 50\nLogLevel ERROR\n\
             Subsystem sftp internal-sftp\n\
             SetEnv PATH={dir}/bin:{path} HOME={dir}/home XDG_CACHE_HOME={dir}/home/cache XDG_STATE_HOME={dir}/home/state XDG_CONFIG_HOME={dir}/home/config\n",
            self.port
        )
    }

    /// Whether it listens.
    fn launch(&mut self, program: &Path) -> Result<bool, String> {
        for dir in ["bin", "home"] {
            std::fs::create_dir_all(self.dir.join(dir)).map_err(|e| e.to_string())?;
        }
        let ddr = self.dir.join("bin/ddr");
        if !ddr.exists() {
            std::os::unix::fs::symlink(super::program(), ddr).map_err(|e| e.to_string())?;
        }
        let config = self.dir.join("sshd_config");
        std::fs::write(&config, self.server_config(&self.dir)).map_err(|e| e.to_string())?;
        let script =
            "\"$1\" -D -e -f \"$2\" </dev/null 2>\"$3\" & echo $!; exec >/dev/null; read -r _; kill $!";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(program).arg(&config).arg(self.dir.join("sshd.log"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().map_err(|e| e.to_string())?;
        let mut pid = String::new();
        let out = keeper.stdout.take().ok_or("no pipe")?;
        BufReader::new(out).read_line(&mut pid).map_err(|e| e.to_string())?;
        self.keeper = Some(keeper);
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return Ok(true);
            }
            if !Path::new("/proc").join(pid.trim()).exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.stop();
        Ok(false)
    }

    /// Ends the server; connections that are open go on.
    pub fn stop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            keeper.wait().expect("own child");
        }
    }

    /// Starts it again on the same port.
    pub fn restart(&mut self) {
        self.stop();
        let program = server().expect("it ran before");
        assert!(self.launch(&program).expect("it ran before"), "sshd does not start again");
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes a key pair.
pub fn keygen(dir: &Path, name: &str, args: &[&str]) -> Result<(), String> {
    let file = dir.join(name);
    if file.exists() {
        return Ok(());
    }
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-C", name, "-f"]).arg(file).args(args);
    if !args.contains(&"-N") {
        command.args(["-N", ""]);
    }
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("ssh-keygen: {status}")),
        Err(e) => Err(format!("no ssh-keygen here: {e}")),
    }
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    listener.local_addr().map(|a| a.port()).map_err(|e| e.to_string())
}

fn user() -> Result<String, String> {
    let output = Command::new("id").arg("-un").output().map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
}
