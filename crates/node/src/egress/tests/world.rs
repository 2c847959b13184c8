//! A sandbox with a policy, and what is outside of it.
use sandbar_core::credential::Material;

use super::zone::Zone;
use super::*;
use crate::egress::sources::{Source, Version};

/// A sandbox, a name server that leads a.test to the outside, and an authority of the outside.
pub(super) struct World {
    pub bench: Bench,
    pub outside: Authority,
    pub zone: Zone,
}

pub(super) async fn world(network: Value) -> Option<World> {
    let ours = own_address(|addr| addr.is_ipv4() && !addr.is_loopback())?;
    let IpAddr::V4(v4) = ours else { return None };
    let netns = namespace()?;
    let zone = Zone::serve().await;
    for name in ["a.test", "b.test", "c.test"] {
        zone.at(name, v4);
    }
    let outside = Authority::make().unwrap();
    let tls = Tls::with_roots(vec![outside.certificate().clone()]);
    let egress = Egress::start(vec![Prefix::host(ours)], dns::Nameservers::fixed(vec![zone.addr]), Authority::make().unwrap(), tls).unwrap();
    let bench = attach(egress, netns, TcpListener::bind((ours, 0)).unwrap(), policy(network));
    Some(World { bench, outside, zone })
}

impl World {
    pub async fn give(&self, network: Value, material: Material) {
        let source = Arc::new(Source::default());
        source.put(Version::default(), Some(material));
        let sources = [("source".to_owned(), source)].into_iter().collect();
        self.bench.handle.set_policy(Terms { policy: policy(network), sources }).await.unwrap();
    }
}

/// Only a.test, with these rules besides.
pub(super) fn rules(extra: Value) -> Value {
    let mut egress = json!({"trafficRules": [{"name": "a", "action": "allow", "domains": ["a.test"]}]});
    egress.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"mode": "block-all", "egress": egress})
}

/// The same with a credential of the source `source`.
pub(super) fn bound(rule: Value, projection: Value) -> Value {
    let mut network = rules(json!({"credentialRules": [rule]}));
    network["credentialBindings"] = json!([{"ref": "secret", "sourceRef": "source", "projection": projection}]);
    network
}
