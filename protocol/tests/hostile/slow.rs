//! Callers who take their time: none holds a turn for as long as it likes.

use std::time::Duration;

use pleach_protocol::endpoint;
use pleach_protocol::limits::{LONG_MAX, MESSAGE_TIMEOUT};
use tokio::sync::mpsc;

use super::*;

/// Lets time pass, and all that happens then.
async fn pass(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[tokio::test]
async fn callers_who_do_not_read_their_answers_lose_their_turns() {
    let served = Served::start();
    // More than what a server gives away before anybody reads.
    let mut transaction = served.db.begin("main").unwrap();
    for i in 0..3500u64 {
        let noise: Vec<u8> =
            (0..30u64).flat_map(|j| *Hash::of(&(i * 30 + j).to_be_bytes()).as_bytes()).collect();
        transaction.put("own", &i.to_be_bytes(), &noise).unwrap();
    }
    let _ = transaction.commit().unwrap();
    let new = NewCommit { message: "much".into(), ..NewCommit::default() };
    served.db.commit("main", new).unwrap();
    let endpoint = endpoint(&format!("http://{}", served.address)).unwrap();
    let channel = endpoint.initial_stream_window_size(1 << 16).connect().await.unwrap();
    let request = || proto::FetchRequest { database: "x".into(), ..Default::default() };
    let mut unread = Vec::new();
    for _ in 0..LONG_MAX {
        unread.push(SyncClient::new(channel.clone()).fetch(request()).await.unwrap().into_inner());
    }
    let other = served.client().await;
    let waiting = tokio::spawn({
        let mut other = other.clone();
        async move { other.fetch(request()).await.unwrap().into_inner().message().await.unwrap() }
    });
    // All turns of clones are taken.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!waiting.is_finished());
    pass(MESSAGE_TIMEOUT / 2).await;
    assert!(!waiting.is_finished(), "not yet");
    pass(MESSAGE_TIMEOUT).await;
    assert!(tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap().is_some());
    // Who reads after all gets what was on its way, and is told.
    let mut late = unread.pop().unwrap();
    let status = loop {
        match late.message().await {
            Ok(answer) => assert!(answer.is_some(), "it must not look as if it had ended"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
}

#[tokio::test]
async fn a_push_that_trickles_is_cut() {
    let (_, commits) = source();
    let served = Served::start();
    let before = served.state();
    let (requests, stream) = mpsc::channel(1);
    let send = async |message| requests.send(proto::PushRequest { message: Some(message) }).await;
    let mut begin = begin(commits[0]);
    begin.updates[0].name = "heads/new".into();
    let mut client = served.client().await;
    let pushing =
        tokio::spawn(
            async move { client.push(ReceiverStream::new(stream)).await?.into_inner().message().await },
        );
    send(push_request::Message::Begin(begin)).await.unwrap();
    let mut sent = 0;
    while !pushing.is_finished() && sent < 100 {
        // Each message in good time, and nothing in it.
        let _ = send(push_request::Message::Data(Bytes::new())).await;
        pass(MESSAGE_TIMEOUT / 4).await;
        sent += 1;
    }
    assert!((3..10).contains(&sent), "{sent}");
    let status = pushing.await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::Cancelled, "{status}");
    assert_eq!(served.state(), before);
}
