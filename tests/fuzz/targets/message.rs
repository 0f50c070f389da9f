//! Frames and messages of the protocol: heads, requests, answers.
#![no_main]

use ddr::format::frame::{HEAD_LEN, Head, MAX_PAYLOAD};
use ddr::format::message::{
    Answer, Fault, Hello, Info, Listed, NewObject, NewPeer, Request, Welcome,
};
use ddr_fuzz::{FOLDER, seed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: seed("message", &seeds()),
    |data: &[u8]| {
        if let Some(head) = data.first_chunk::<HEAD_LEN>()
            && let Ok(head) = Head::decode(head)
        {
            assert!(head.len as usize <= MAX_PAYLOAD);
            assert_eq!(Head::decode(&head.encode()).expect("own bytes"), head);
        }
        if let Ok(Some(request)) = Request::decode(data) {
            assert_eq!(Request::decode(&request.encode()).expect("own bytes"), Some(request));
        }
        if let Ok(answer) = Answer::decode(data) {
            assert_eq!(Answer::decode(&answer.encode()).expect("own bytes"), answer);
            if let Answer::Failed(fault) = answer {
                assert!(!fault.into_error().to_string().contains('\x1b'));
            }
        }
    }
);

fn seeds() -> Vec<Vec<u8>> {
    let object = |name: &str| NewObject { name: name.into(), size: 1 << 20, hash: [7; 32] };
    let requests = [
        Request::Hello(Hello { version: 1, features: vec!["a".into()], program: "ddr".into(), folder: Some(FOLDER) }),
        Request::Ping,
        Request::Info,
        Request::Create(NewPeer { folder: FOLDER, key: [1; 32], name: "nas".into(), again: false }),
        Request::Put { objects: vec![object("data/a"), object("log/b")], again: true },
        Request::Get { name: "data/a".into(), from: 1, to: 1 << 40 },
        Request::List { prefix: "log/".into(), after: Some("log/a".into()) },
        Request::Delete { name: "gc/x".into() },
        Request::Credit { bytes: 300 },
        Request::Cancel,
    ];
    let text = || "text".to_string();
    let answers = [
        Answer::Welcome(Welcome {
            version: 1,
            features: vec![],
            program: text(),
            window: 8 << 20,
            puts: 8,
            silence: 60,
        }),
        Answer::Done,
        Answer::Failed(Fault { code: 12, what: text(), why: Some(text()), errno: Some(5) }),
        Answer::Held(vec![0, 1 << 30]),
        Answer::Size(9),
        Answer::Page(vec![Listed { name: text(), size: 7 }]),
        Answer::Credit(1 << 20),
        Answer::Info(Info {
            folder: FOLDER,
            store: ddr::base::id::StoreId([2; 16]),
            free: 1,
            total: 2,
            host: text(),
            device: 3,
            pid: 4,
            program: text(),
            boot: text(),
        }),
    ];
    requests.iter().map(Request::encode).chain(answers.iter().map(Answer::encode)).collect()
}
