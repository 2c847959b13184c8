//! The secrets that a policy's bindings refer to. All runtimes of a team share each of its sources, so that a new secret is
//! there for every one of them in the moment in which it is put: connections that are open use it from their next request on.
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use sandbar_core::credential::{Material, Materials};
use sandbar_core::egress::Policy;

/// A source and what it holds now.
#[derive(Debug, Default)]
pub struct Source {
    held: RwLock<Held>,
}

/// Which of all that ever had a source's name, in their order: a name that was deleted can be made again, and its number is
/// 1 then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// When the source was made.
    pub made_at_ms: i64,
    /// Of its rotation.
    pub number: i64,
}

#[derive(Debug, Default)]
struct Held {
    version: Version,
    material: Option<Arc<Material>>,
}

impl Source {
    /// Puts what a version of the source holds; `None` when it cannot be read or is deleted. An older version than the present one
    /// changes nothing, so that whoever read it before a rotation may put it afterwards.
    pub fn put(&self, version: Version, material: Option<Material>) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if version >= held.version {
            *held = Held { version, material: material.map(Arc::new) };
        }
    }

    /// Whether it is there and nothing of it can be read.
    fn is_closed(&self) -> bool {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.version > Version::default() && held.material.is_none()
    }

    fn material(&self) -> Option<Arc<Material>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).material.clone()
    }
}

/// The sources of one runtime, by name.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    by_name: Arc<BTreeMap<String, Arc<Source>>>,
}

impl Sources {
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether a source is there and cannot be opened.
    pub(super) fn is_closed(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|source| source.is_closed())
    }

    /// What they hold now. One that holds nothing is not in it.
    pub fn materials(&self) -> Materials {
        Arc::new(self.by_name.iter().filter_map(|(name, source)| Some((name.clone(), source.material()?))).collect())
    }
}

impl FromIterator<(String, Arc<Source>)> for Sources {
    fn from_iter<T: IntoIterator<Item = (String, Arc<Source>)>>(sources: T) -> Self {
        Self { by_name: Arc::new(sources.into_iter().collect()) }
    }
}

/// What holds for a runtime's network: its policy, and the secrets that the policy refers to.
#[derive(Debug, Clone)]
pub struct Terms {
    pub policy: Policy,
    pub sources: Sources,
}

/// A policy without secrets.
impl From<Policy> for Terms {
    fn from(policy: Policy) -> Self {
        Self { policy, sources: Sources::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(password: &str) -> Option<Material> {
        Some(Material::UsernamePassword { username: "u".to_owned(), password: password.to_owned() })
    }

    #[test]
    fn a_rotation_is_seen_by_all_and_not_undone() {
        let source = Arc::new(Source::default());
        let [one, other] = [1, 2].map(|_| Sources::from_iter([("s".to_owned(), Arc::clone(&source))]));
        assert!(one.materials().is_empty(), "nothing is held yet");
        let version = |made_at_ms, number| Version { made_at_ms, number };
        source.put(version(7, 1), login("first"));
        let before = one.materials();
        source.put(version(7, 3), login("third"));
        source.put(version(7, 2), login("second"));
        for sources in [&one, &other] {
            assert_eq!(sources.materials()["s"].value("password"), Some("third"));
        }
        assert_eq!(before["s"].value("password"), Some("first"), "who has begun with one keeps it");
        assert!(!other.is_closed("s"));
        source.put(version(7, 3), None);
        assert!(other.is_closed("s") && !other.is_closed("t"));
        assert!(other.materials().is_empty());

        // It is deleted and made again, and whoever read the former one comes last.
        source.put(version(9, 1), login("another"));
        source.put(version(7, 4), None);
        source.put(version(7, 3), login("third"));
        assert_eq!(other.materials()["s"].value("password"), Some("another"));
    }
}
