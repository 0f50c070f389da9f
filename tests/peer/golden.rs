//! Every message, byte by byte: what released versions say must be understood, and be said again.
//! `DDR_BLESS=1` adds lines that are missing; one that exists is never changed.

use std::fmt::{Debug, Write};

use ddr::base::id::{FolderId, StoreId};
use ddr::format::message::{Answer, Fault, Hello, Info, Listed, NewObject, NewPeer, Request, Welcome};

const FOLDER: FolderId = FolderId([0x11; 16]);

fn requests() -> Vec<Request> {
    let object = |name: &str, size| NewObject { name: name.into(), size, hash: [7; 32] };
    let hello = |folder| Hello { version: 1, features: vec!["x".into()], program: "ddr 1".into(), folder };
    vec![
        Request::Hello(hello(None)),
        Request::Hello(hello(Some(FOLDER))),
        Request::Ping,
        Request::Info,
        Request::Create(NewPeer { folder: FOLDER, key: [1; 32], name: "nas".into(), again: false }),
        Request::Put { objects: vec![object("data/a", 1 << 33), object("log/b", 0)], again: true },
        Request::Get { name: "data/a".into(), from: 1, to: u64::MAX },
        Request::List { prefix: "log/".into(), after: None },
        Request::List { prefix: String::new(), after: Some("log/a".into()) },
        Request::Delete { name: "gc/x".into() },
        Request::Credit { bytes: 300 },
        Request::Cancel,
    ]
}

fn answers() -> Vec<Answer> {
    let text = || "text".to_string();
    let welcome =
        Welcome { version: 1, features: vec![], program: text(), window: 8 << 20, puts: 8, silence: 60 };
    let info = Info {
        folder: FOLDER,
        store: StoreId([2; 16]),
        free: 1,
        total: 2,
        host: text(),
        device: 3,
        pid: 4,
        program: text(),
        boot: text(),
    };
    vec![
        Answer::Welcome(welcome),
        Answer::Done,
        Answer::Failed(Fault { code: 12, what: text(), why: Some(text()), errno: Some(5) }),
        Answer::Failed(Fault { code: 1, what: text(), why: None, errno: None }),
        Answer::Held(vec![0, 1 << 30]),
        Answer::Size(9),
        Answer::Page(vec![Listed { name: text(), size: 7 }]),
        Answer::Credit(1 << 20),
        Answer::Info(info),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

/// One line a message: how it is written here, and its bytes.
fn lines<T: Debug>(messages: &[T], encode: impl Fn(&T) -> Vec<u8>) -> Vec<String> {
    messages.iter().map(|m| format!("{m:?} = {}", hex(&encode(m)))).collect()
}

#[test]
fn messages_are_frozen() {
    let (requests, answers) = (requests(), answers());
    for request in &requests {
        let bytes = request.encode();
        assert_eq!(Request::decode(&bytes).unwrap().as_ref(), Some(request));
        (0..bytes.len())
            .for_each(|n| assert!(Request::decode(&bytes[..n]).is_err(), "{request:?} cut to {n}"));
    }
    for answer in &answers {
        let bytes = answer.encode();
        assert_eq!(Answer::decode(&bytes).unwrap(), *answer);
        (0..bytes.len()).for_each(|n| assert!(Answer::decode(&bytes[..n]).is_err(), "{answer:?} cut to {n}"));
    }
    let mut now = lines(&requests, Request::encode);
    now.extend(lines(&answers, Answer::encode));
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/messages.txt");
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let missing: Vec<_> = now.iter().filter(|line| !known.lines().any(|k| k == line.as_str())).collect();
    if std::env::var_os("DDR_BLESS").is_some() {
        for line in &missing {
            let message = line.split(" = ").next().unwrap();
            assert!(!known.contains(&format!("{message} = ")), "{message} was encoded otherwise");
        }
        let added: String = missing.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, known + &added).unwrap();
        return;
    }
    assert!(missing.is_empty(), "not as released: {missing:#?}; DDR_BLESS=1 adds new ones");
}
