use proptest::prelude::*;

use super::{request::NAME_CHARS_MAX, *};
use crate::{
    HostKey, HostKeys, Request, Settings,
    limits::{ARGUMENT_BYTES_MAX, COMMAND_BYTES_MAX, REQUESTS_BYTES_MAX},
    transport::Role,
};

fn wire(role: Role) -> (Wire, mpsc::UnboundedReceiver<Told>) {
    let session = Session::new(Transport::new(role).unwrap(), tokio::io::empty());
    (session.wire, session.told)
}

fn server() -> (Wire, mpsc::UnboundedReceiver<Told>) {
    let host_key = HostKey::from_pkcs8(&HostKey::generate().unwrap()).unwrap();
    wire(Role::Server(Arc::new(Settings { host_key, software: "Test" })))
}

/// A session that is open.
fn opened(wire: &mut Wire, told: &mut mpsc::UnboundedReceiver<Told>) -> Channel {
    wire.take(&Writer::message(message::CHANNEL_OPEN).string("session").u32(7).u32(0).u32(1).done()).unwrap();
    let channel = wire.opens.pop().unwrap().accept().unwrap();
    wire.tell(told.try_recv().unwrap()).unwrap();
    channel
}

fn request(channel: &Channel, name: &str, wants_reply: bool, rest: &[u8]) -> Vec<u8> {
    Writer::message(message::CHANNEL_REQUEST).u32(channel.id).string(name).boolean(wants_reply).raw(rest).done()
}

fn exec(channel: &Channel, bytes: usize) -> Vec<u8> {
    request(channel, "exec", true, &Writer::default().string(vec![b'x'; bytes]).done())
}

#[tokio::test]
async fn requests_that_wait_are_bounded_in_bytes() {
    let (mut wire, mut told) = server();
    let channel = opened(&mut wire, &mut told);
    for _ in 0..REQUESTS_BYTES_MAX / COMMAND_BYTES_MAX {
        wire.take(&exec(&channel, COMMAND_BYTES_MAX)).unwrap();
    }
    assert!(matches!(wire.take(&exec(&channel, 1)), Err(SshError::Protocol("too many requests at once"))));
    // What was looked at has made room.
    assert!(matches!(channel.event().await, Some(Event::Request { request: Request::Exec(_), .. })));
    wire.take(&exec(&channel, 1)).unwrap();
}

#[tokio::test]
async fn a_request_that_is_too_long_is_not_kept() {
    let (mut wire, mut told) = server();
    let channel = opened(&mut wire, &mut told);
    wire.take(&exec(&channel, COMMAND_BYTES_MAX + 1)).unwrap();
    for name in ["env", "pty-req", "subsystem", "signal", "what"] {
        wire.take(&request(&channel, name, true, &[0; ARGUMENT_BYTES_MAX])).unwrap();
    }
    wire.take(&request(&channel, &"n".repeat(100_000), true, &[])).unwrap();
    for name in ["exec", "env", "pty-req", "subsystem", "signal", "what", &"n".repeat(NAME_CHARS_MAX)] {
        assert_eq!(channel.event().await, Some(Event::Request { request: Request::Other(name.to_owned()), wants_reply: true }));
    }
}

#[tokio::test]
async fn answers_that_are_not_written_are_bounded() {
    let (mut wire, mut told) = server();
    let channel = opened(&mut wire, &mut told);
    for _ in 0..REQUESTS_MAX {
        wire.take(&request(&channel, "shell", true, &[])).unwrap();
        channel.event().await.unwrap();
        channel.answer(false);
    }
    assert!(wire.take(&request(&channel, "shell", true, &[])).is_err());
    while let Ok(answer) = told.try_recv() {
        wire.tell(answer).unwrap();
    }
    // It had counted.
    wire.take(&request(&channel, "shell", false, &[])).unwrap();
}

#[tokio::test]
async fn messages_for_small_windows_are_bounded() {
    let (mut wire, mut told) = server();
    let channel = opened(&mut wire, &mut told);
    wire.take(&Writer::message(message::CHANNEL_WINDOW_ADJUST).u32(channel.id).u32(u32::MAX).done()).unwrap();
    let writing = channel.write(Stream::Out, vec![0; SENDING_BYTES_MAX].into());
    assert!(tokio::time::timeout(Duration::from_millis(200), writing).await.is_err());
    assert!(told.len() <= SENDING_BYTES_MAX / MESSAGE_BYTES, "{}", told.len());
}

#[test]
fn what_is_not_known_is_answered() {
    let (mut wire, _told) = server();
    let before = wire.transport.output.len();
    wire.take(&[200, 1, 2, 3]).unwrap();
    assert!(wire.transport.output.len() > before);
}

fn numbers() -> impl Strategy<Value = u8> {
    prop_oneof![3 => message::CHANNEL_OPEN..=message::CHANNEL_FAILURE, 1 => any::<u8>()]
}

/// Bodies that get further than any bytes would.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec!["session", "direct-tcpip", "pty-req", "env", "exec", "subsystem", "window-change", "signal", "exit-status"]);
    let rest = prop::collection::vec(any::<u8>(), 0..40);
    prop_oneof![
        rest.clone(),
        (0_u32..3, rest.clone()).prop_map(|(id, rest)| Writer::default().u32(id).raw(&rest).done()),
        (0_u32..3, name.clone(), any::<bool>(), rest.clone()).prop_map(|(id, name, wants_reply, rest)| Writer::default()
            .u32(id)
            .string(name)
            .boolean(wants_reply)
            .raw(&rest)
            .done()),
        (0_u32..3, rest.clone()).prop_map(|(id, data)| Writer::default().u32(id).string(data).done()),
        (name, any::<[u32; 3]>(), rest).prop_map(|(name, [a, b, c], rest)| Writer::default()
            .string(name)
            .u32(a)
            .u32(b)
            .u32(c)
            .string(rest)
            .u32(a % 70_000)
            .done()),
    ]
}

proptest! {
    #[test]
    fn no_message_does_harm(messages in prop::collection::vec((numbers(), bodies()), 0..30), is_client: bool) {
        let (mut wire, mut told) = if is_client { wire(Role::Client { software: "Test", known: HostKeys::default() }) } else { server() };
        let (to, _opened) = oneshot::channel();
        let mut channels = Vec::new();
        if is_client {
            wire.tell(Told::Open { to }).unwrap();
        } else {
            channels.push(opened(&mut wire, &mut told));
        }
        for (number, body) in messages {
            if wire.take(&[&[number], &*body].concat()).is_err() {
                break;
            }
            channels.extend(wire.opens.drain(..).filter_map(Open::accept));
            if channels.len() > 3 {
                channels.remove(0);
            }
            while let Ok(one) = told.try_recv() {
                if wire.tell(one).is_err() {
                    return Ok(());
                }
            }
        }
    }
}
