use sandbar_api::template::TemplateSpec;
use serde_json::json;

use super::*;
use crate::lifecycle;

fn revision(number: i64, service: &Value) -> RevisionRecord {
    RevisionRecord {
        id: format!("r{number}"),
        function_id: "f".into(),
        team_id: "team".into(),
        number,
        source: Source::SandboxService { sandbox_id: "sb-1".into(), service_id: "api".into() },
        template_id: "default".into(),
        template: TemplateSpec::default(),
        config: SandboxConfig::default(),
        base: Base::default(),
        mounts: Vec::new(),
        service_snapshot: service.clone(),
        service: unread(),
        spec: None,
        provenance: None,
        created_by: None,
        created_at_ms: 0,
    }
}

fn sandbox(services: Value) -> SandboxRecord {
    let claim = lifecycle::Claim {
        id: "sb-1".into(),
        team_id: "team".into(),
        user_id: "u".into(),
        template_id: "default".into(),
        template: TemplateSpec::default(),
        config: SandboxConfig { services: Some(services), ..SandboxConfig::default() },
        mounts: Vec::new(),
        base: None,
    };
    lifecycle::claim(claim, 0)
}

#[test]
fn the_source_serves_only_what_was_published_from_it_last() {
    let (old, new) = (json!({"id": "api", "port": 1}), json!({"id": "api", "port": 2}));
    let source = sandbox(json!([{"id": "other"}, old.clone()]));
    assert!(serves_from_source(&revision(1, &old), 1, &source));
    assert!(!serves_from_source(&revision(1, &old), 2, &source), "something newer was published from it");
    assert!(!serves_from_source(&revision(1, &new), 1, &source), "its service was changed since");
    assert!(!serves_from_source(&revision(1, &old), 1, &sandbox(json!([]))), "the service is gone");
    assert!(!serves_from_source(&revision(1, &old), 1, &SandboxRecord { desired: Desired::Cleaned, ..source.clone() }), "its files are gone");
    assert!(serves_from_source(&revision(1, &old), 1, &SandboxRecord { desired: Desired::Paused, ..source.clone() }), "it sleeps");
    assert!(!serves_from_source(&revision(1, &old), 1, &SandboxRecord { team_id: "others".into(), ..source.clone() }));
    assert!(!serves_from_source(&RevisionRecord { source: Source::RevisionSpec, ..revision(1, &old) }, 1, &source));
}

#[test]
fn an_instance_is_not_public_by_itself() {
    let service = json!({"id": "api", "port": 1, "ingress": {"public": true, "routes": [{"id": "api"}]}, "runtime": {"type": "cmd"}});
    assert_eq!(instance_service(&service), json!({"id": "api", "port": 1, "ingress": {"public": false, "routes": []}, "runtime": {"type": "cmd"}}));
}

#[test]
fn figures_of_autoscaling_have_ranges() {
    let defaults = Autoscaling::default();
    assert_eq!(Autoscaling::check(0, 20, 80, 300), Ok(defaults));
    assert!(Autoscaling::check(100, 1000, 1000, 86_400).is_ok() && Autoscaling::check(0, 1, 1, 30).is_ok());
    for (min, max, target, after, field) in [
        (-1, 20, 80, 300, "min_warm"),
        (101, 1000, 80, 300, "min_warm"),
        (3, 2, 80, 300, "min_warm"),
        (0, 0, 80, 300, "max_active"),
        (0, 1001, 80, 300, "max_active"),
        (0, 20, 0, 300, "target_concurrency"),
        (0, 20, 1001, 300, "target_concurrency"),
        (0, 20, 80, 29, "scale_down_after_seconds"),
        (0, 20, 80, i64::MAX, "scale_down_after_seconds"),
    ] {
        let wrong = Autoscaling::check(min, max, target, after).expect_err(field);
        assert_eq!(wrong[0].path, format!("autoscaling.{field}"));
    }
}

#[test]
fn a_revision_is_read_as_it_was_written() {
    let mount = RevisionMount {
        volume_id: "vol-1".into(),
        tree_id: "tree-1".into(),
        mount_point: "/data".into(),
        read_only: true,
        source_volume_id: Some("vol-0".into()),
        snapshot_id: None,
        access_mode: AccessMode::Rox,
        size_limit_bytes: 7,
        uid: 1,
        gid: 2,
    };
    let service = json!({"id": "api", "port": 7, "ingress": {"public": true}});
    let whole = RevisionRecord { mounts: vec![mount], spec: Some(json!({"env_refs": []})), ..revision(3, &service) };
    let text = serde_json::to_string(&whole).expect("writes");
    let read = RevisionRecord::read(&text).expect("reads");
    assert_eq!((read.service.id.as_str(), read.service.port), ("api", 7));
    assert_eq!(RevisionRecord { service: unread(), ..read }, whole);
    let broken = RevisionRecord { service_snapshot: json!({"id": "api"}), ..whole };
    assert!(RevisionRecord::read(&serde_json::to_string(&broken).expect("writes")).is_err());
    for state in ["starting", "ready", "retiring", "draining", "removing"] {
        assert_eq!(InstanceState::named(state).map(InstanceState::as_str), Some(state));
    }
    assert_eq!(InstanceState::named("other"), None);
}
