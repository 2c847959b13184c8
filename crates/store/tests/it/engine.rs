use std::time::Instant;

use sandbar_store::{Store, StoreError};

use crate::{Fresh, sandboxes::sandbox};

#[tokio::test]
async fn values_are_remembered() {
    let fresh = Fresh::new();
    let store = fresh.open();
    assert_eq!(store.meta_get("k").await.expect("reads"), None);
    for value in ["1", "2"] {
        store.meta_set("k", value).await.expect("writes");
        assert_eq!(store.meta_get("k").await.expect("reads").as_deref(), Some(value));
    }
    drop(store);
    assert_eq!(fresh.open().meta_get("k").await.expect("reads").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let fresh = Fresh::new();
    let store = fresh.open();
    let clone = store.clone();
    clone.meta_set("k", "1").await.expect("writes");
    for _ in 0..2 {
        store.close().await.expect("closes");
    }
    assert!(matches!(clone.meta_get("k").await, Err(StoreError::Closed)));
    assert!(matches!(clone.meta_set("k", "2").await, Err(StoreError::Closed)));
    assert_eq!(fresh.open().meta_get("k").await.expect("reads").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let fresh = Fresh::new();
    fresh.open().close().await.expect("closes");
    let path = fresh.path();
    // The header of an SQLite file holds the user version at offset 60, big-endian.
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[60..64].copy_from_slice(&999u32.to_be_bytes());
    std::fs::write(&path, &bytes).expect("writes");
    assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 999, .. })));
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let fresh = Fresh::new();
    std::fs::write(fresh.path(), vec![b'x'; 8192]).expect("writes");
    assert!(matches!(Store::open(&fresh.path()), Err(StoreError::Database { .. })));
    assert!(matches!(Store::open(&fresh.0.join("no/such/folder")), Err(StoreError::File(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_share_commits_and_failures_stay_alone() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    let began = Instant::now();
    let writers: Vec<_> = (0..600)
        .map(|n| {
            let store = store.clone();
            // Every third id was written before, so its insert is refused in the middle of a shared transaction.
            let id = if n % 3 == 2 { n - 2 } else { n };
            tokio::spawn(async move { (id, store.sandbox_insert(&sandbox(&format!("sb-{id}"), "team", 1), &[]).await) })
        })
        .collect();
    let (mut stored, mut refused) = (0, 0);
    for writer in writers {
        match writer.await.expect("no panic") {
            (_, Ok(())) => stored += 1,
            (_, Err(StoreError::Exists { .. })) => refused += 1,
            (id, Err(other)) => panic!("{id}: {other}"),
        }
    }
    let took = began.elapsed();
    assert_eq!((stored, refused), (400, 200));
    assert_eq!(store.sandboxes_all().await.expect("reads").len(), 400);
    println!("600 writes in {took:?}");
}

/// A killed process leaves the log as it is: what was answered must be read from a copy taken at any moment after.
#[tokio::test]
async fn what_was_acknowledged_survives_a_crash() {
    let fresh = Fresh::new();
    let store = fresh.installed().await;
    for n in 0..50 {
        store.sandbox_insert(&sandbox(&format!("sb-{n}"), "team", n), &[]).await.expect("inserts");
    }
    let crashed = Fresh::new();
    for suffix in ["", "-wal"] {
        let name = format!("test.db{suffix}");
        std::fs::copy(fresh.0.join(&name), crashed.0.join(&name)).expect("copies");
    }
    assert_eq!(crashed.open().sandboxes_all().await.expect("reads").len(), 50);
}
