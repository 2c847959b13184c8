//! What can go wrong, in words.
use std::{io, path::PathBuf};

/// A launch that failed.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The specification cannot be right, whatever the machine.
    #[error("the sandbox cannot be made: {0}")]
    Spec(String),
    /// A step failed.
    #[error("could not {step}{at}: {source}", step = .step.words(), at = at(.path))]
    Step {
        /// Which.
        step: Step,
        /// The file that it was about.
        path: Option<PathBuf>,
        /// What the kernel said.
        source: io::Error,
    },
    /// The caller's network set-up failed.
    #[error("could not set up the network: {0}")]
    Network(String),
    /// The child ended without a word: killed from outside, or out of memory.
    #[error("the sandbox's first process died before its agent ran ({})", status_words(.status))]
    Died {
        /// The signal, when it is known.
        status: Option<i32>,
    },
    /// The child neither went on nor failed in time.
    #[error("the sandbox's first process did not start its agent within {0} s")]
    Stuck(u64),
}

/// The steps of a launch, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Preparing, on the host.
    Prepare = 1,
    /// Opening the cgroup.
    Cgroup,
    /// clone3.
    Clone,
    /// Joining the v1 cgroups, in the child.
    JoinCgroup,
    /// Writing the id maps.
    IdMaps,
    /// Mounting the overlay.
    Overlay,
    /// Preparing a bind mount on the host.
    BindSource,
    /// Talking over the socket between host and child.
    Talk,
    /// Making all mounts private and putting the root in place.
    Root,
    /// Becoming uid 0 of the sandbox.
    Ids,
    /// Mounting and masking /proc.
    Proc,
    /// Filling /dev.
    Dev,
    /// Attaching a bind mount.
    Bind,
    /// pivot_root and letting go of the host's tree.
    Pivot,
    /// Host name and session.
    Hostname,
    /// Network namespace.
    Network,
    /// Putting the inherited files in place.
    Files,
    /// Resource limits.
    ResourceLimits,
    /// no_new_privs and capabilities.
    Capabilities,
    /// The Landlock ruleset.
    Landlock,
    /// The system call filter.
    Seccomp,
    /// Executing the agent.
    Execute,
}

impl Step {
    const ALL: [Self; 22] = [
        Self::Prepare,
        Self::Cgroup,
        Self::Clone,
        Self::JoinCgroup,
        Self::IdMaps,
        Self::Overlay,
        Self::BindSource,
        Self::Talk,
        Self::Root,
        Self::Ids,
        Self::Proc,
        Self::Dev,
        Self::Bind,
        Self::Pivot,
        Self::Hostname,
        Self::Network,
        Self::Files,
        Self::ResourceLimits,
        Self::Capabilities,
        Self::Landlock,
        Self::Seccomp,
        Self::Execute,
    ];

    /// As it stands behind "could not".
    pub fn words(self) -> &'static str {
        match self {
            Self::Prepare => "prepare the sandbox",
            Self::Cgroup => "open the cgroup",
            Self::Clone => "create the sandbox's namespaces (clone3)",
            Self::JoinCgroup => "join the cgroup",
            Self::IdMaps => "map the sandbox's user ids",
            Self::Overlay => "mount the root filesystem (overlay)",
            Self::BindSource => "prepare the bind mount",
            Self::Talk => "talk to the sandbox's first process",
            Self::Root => "put the root filesystem in place",
            Self::Ids => "become root of the sandbox",
            Self::Proc => "mount and mask /proc",
            Self::Dev => "fill /dev",
            Self::Bind => "attach the bind mount",
            Self::Pivot => "leave the host's filesystem (pivot_root)",
            Self::Hostname => "set host name and session",
            Self::Network => "enter the network namespace",
            Self::Files => "hand over the inherited files",
            Self::ResourceLimits => "set resource limits",
            Self::Capabilities => "drop capabilities",
            Self::Landlock => "enforce Landlock",
            Self::Seccomp => "load the system call filter",
            Self::Execute => "execute the agent",
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u32 == number)
    }
}

impl LaunchError {
    pub(super) fn host(step: Step, path: Option<PathBuf>, source: io::Error) -> Self {
        Self::Step { step, path, source }
    }
}

fn at(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|p| format!(" at {}", p.display())).unwrap_or_default()
}

fn status_words(status: &Option<i32>) -> String {
    status.map_or_else(|| "no status".to_owned(), |signal| format!("signal {signal}"))
}
