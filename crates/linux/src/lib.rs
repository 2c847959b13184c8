//! Linux, directly: the only crate that says `unsafe`. Everything here is synchronous.
pub mod caps;
pub mod cgroup;
pub mod confine;
pub mod inotify;
pub mod landlock;
pub mod launch;
pub mod net;
pub mod pidfd;
pub mod probe;
pub mod process;
pub mod pty;
pub mod quota;
pub mod seccomp;
pub mod userns;
