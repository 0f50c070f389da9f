//! Getting in: host keys, our keys, jump hosts, and what is said when it does not work.

use ddr::base::error::Error;

use super::{host, with_server};
use crate::support::sshd::keygen;

#[test]
fn an_unknown_host_is_refused_without_a_terminal_unless_accepted() {
    let Some((shell, sshd)) = with_server() else { return };
    std::fs::remove_file(sshd.file("known_hosts")).expect("made before");
    let add = "ddr remote add nas sftp://nas$PWD/../../far --init";
    let refused = shell.code(add, 4);
    assert!(refused.contains("--accept-new") && refused.contains("SHA256:"), "{refused}");
    shell.ok(&format!("{add} --accept-new"));
    let known = std::fs::read_to_string(sshd.file("known_hosts")).expect("written");
    assert!(known.starts_with("nas ssh-ed25519 "), "{known}");
    shell.ok("ddr stash .");
}

#[test]
fn a_changed_host_key_is_fatal_and_the_line_is_named() {
    let Some((shell, mut sshd)) = with_server() else { return };
    shell.ok("ddr remote add nas sftp://nas$PWD/../../far --init && ddr stash .");
    for name in ["host_ed25519", "host_ed25519.pub"] {
        std::fs::remove_file(sshd.file(name)).expect("made before");
    }
    keygen(&sshd.file(""), "host_ed25519", &["-t", "ed25519"]).expect("a new key");
    sshd.restart();
    let said = shell.code("ddr checkout .", 4);
    assert!(said.contains("known_hosts, line 1") && said.contains("ssh-keygen"), "{said}");
    let said = shell.code("ddr remote add again sftp://nas$PWD/../../far --accept-new", 4);
    assert!(said.contains("known_hosts, line 1"), "{said}");
    sshd.know();
    shell.ok("ddr checkout .");
}

#[test]
fn a_key_nobody_authorised_is_offline_and_says_what_was_tried() {
    let Some((shell, sshd)) = with_server() else { return };
    std::fs::write(sshd.file("authorized_keys"), "").expect("own file");
    let said = shell.code("ddr remote add nas sftp://nas$PWD/../../far --init", 13);
    assert!(said.contains("ssh/id") && said.contains("accepted"), "{said}");
    std::fs::remove_file(sshd.file("id")).expect("made before");
    let said = shell.code("ddr remote add nas sftp://nas$PWD/../../far --init", 13);
    assert!(said.contains("no key"), "{said}");
}

#[test]
fn a_host_that_does_not_answer_is_offline() {
    let Some((shell, mut sshd)) = with_server() else { return };
    shell.ok("ddr remote add nas sftp://nas$PWD/../../far --init && ddr stash .");
    sshd.stop();
    let said = shell.code("ddr checkout .", 13);
    assert!(said.contains("refused"), "{said}");
    let listed = shell.ok("ddr remote list");
    assert!(listed.contains("offline"), "{listed}");
    // One that takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("bound").port();
    sshd.configure_port(port, "  ConnectTimeout 1").expect("written");
    let since = std::time::Instant::now();
    let said = shell.code("ddr checkout .", 13);
    assert!(said.contains("handshake") && since.elapsed().as_secs() < 10, "{said}");
    sshd.restart();
    sshd.configure("").expect("written");
    shell.ok("ddr checkout .");
}

#[test]
fn jump_hosts_and_proxy_commands_are_gone_through() {
    let Some((shell, _sshd)) = with_server() else { return };
    shell.ok("ddr remote add nas sftp://jumped$PWD/../../far --init && ddr stash .");
    shell.ok("ddr remote set nas --url sftp://proxied$PWD/../../far && ddr checkout .");
}

#[test]
fn keys_with_a_passphrase_come_from_a_terminal_or_an_agent() {
    let Some((shell, sshd)) = with_server() else { return };
    for name in ["id", "id.pub"] {
        std::fs::remove_file(sshd.file(name)).expect("made before");
    }
    keygen(&sshd.file(""), "id", &["-t", "ed25519", "-N", "secret words"]).expect("a key");
    std::fs::copy(sshd.file("id.pub"), sshd.file("authorized_keys")).expect("own file");
    let said = shell.code("ddr remote add nas sftp://nas$PWD/../../far --init", 13);
    assert!(said.contains("passphrase") && said.contains("ssh-add"), "{said}");
    // With somebody to ask.
    let answers = std::sync::Mutex::new(vec!["secret words", "wrong"]);
    let target = host(&sshd, &shell.sandbox.root().join("far"));
    let mut login = login(&sshd);
    login.ask = std::sync::Arc::new(move |question| {
        assert!(question.secret && question.text.contains("ssh/id"), "{question:?}");
        answers.lock().expect("one thread").pop().map(Into::into)
    });
    let asked = ddr::peer::host::Host::new(target.address.clone(), login);
    asked.connect().map(drop).expect("the second passphrase is right");
    asked.connect().map(drop).expect("it is not asked again");
    assert!(matches!(target.connect().map(drop), Err(Error::Offline { .. })));
    // An agent.
    let socket = sshd.file("agent");
    shell.ok(&format!(
        "eval $(ssh-agent -a {0}) >/dev/null; printf 'echo secret words' > ../pass; chmod +x ../pass; \
         SSH_ASKPASS=../pass SSH_ASKPASS_REQUIRE=force ssh-add -q {1}; echo $SSH_AGENT_PID > ../agent",
        socket.display(),
        sshd.file("id").display()
    ));
    let more = format!("  IdentityAgent {}", socket.display());
    sshd.configure(&more).expect("written");
    let added = shell.run("ddr remote add nas sftp://nas$PWD/../../far --init && ddr stash .");
    shell.ok("kill $(cat ../agent)");
    added.expect(&[0]).expect("the agent signs");
}

fn login(sshd: &crate::support::sshd::Sshd) -> ddr::peer::host::Login {
    let config_file = Some(sshd.config());
    ddr::peer::host::Login { config_file, ..Default::default() }
}
