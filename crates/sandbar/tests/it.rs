//! The whole product from outside: the real binary, real sandboxes, HTTP and WebSockets.
//!
//! Needs what the server needs: root and a kernel with namespaces, overlayfs and cgroups. Where that is missing the
//! server says so and the tests fail with its message.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod it {
    mod acme;
    mod api;
    mod apps;
    mod apps_offline;
    mod bombs;
    mod certificates;
    mod crash;
    mod crates;
    mod credentials;
    mod disk;
    mod escape;
    mod gateway;
    mod harness;
    mod http;
    mod images;
    mod input;
    mod items;
    mod lifecycle;
    mod logs;
    mod machine;
    mod model;
    mod network;
    mod pools;
    mod previews;
    mod publish;
    mod receiver;
    mod recovery;
    mod registry;
    mod sandbox_functions;
    mod script_remote;
    mod script_triggers;
    mod scripts;
    mod snapshots;
    mod ssh;
    mod standing;
    mod streams;
    mod tls;
    mod usage;
    mod volumes;
    mod webhooks;
}
