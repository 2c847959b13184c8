use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::script::{
    collection::{Field, FieldType},
    item::ItemRecord,
    query::Context,
};

fn spec(permissions: Value) -> CollectionSpec {
    let field =
        |name: &str| Field { name: name.to_owned(), kind: FieldType::String, required: false, unique: false, default: None, max_length: None, choices: None };
    CollectionSpec {
        fields: vec![field("title"), field("state"), field("secret")],
        permissions: serde_json::from_value(permissions).expect("rules"),
        owner_scoped: true,
        ..CollectionSpec::default()
    }
}

fn asker<'a>(user_id: Option<&'a str>, roles: &'a [String]) -> Asker<'a> {
    Asker { user_id, roles }
}

#[test]
fn rules_hold_for_their_roles() {
    let rules = spec(json!([
        {"role": "public", "action": "read", "filter": {"state": "live"}, "fields": ["title"]},
        {"role": "authenticated", "action": "create"},
        {"role": "developer", "action": "*", "filter": {"ownerId": "$user.id"}},
        {"role": "service:mailer", "action": "read", "fields": ["secret"]},
    ]));
    let none: Vec<String> = Vec::new();
    let of = |role: &str| vec![role.to_owned()];
    let (viewer, developer, admin, mailer, other) = (of("viewer"), of("developer"), of("admin"), of("service:mailer"), of("service:other"));
    let verdict = |user: Option<&str>, roles: &[String]| {
        Action::ALL.map(|action| match resolve(&asker(user, roles), &rules, action) {
            Verdict::Denied => "-".to_owned(),
            Verdict::Allowed(allowed) => {
                let fields = allowed.fields.map_or("*".to_owned(), |fields| fields.into_iter().collect::<Vec<_>>().join("+"));
                format!("{}{fields}", if allowed.filter.is_some() { "some " } else { "" })
            }
        })
    };
    for (user, roles, wanted) in [
        (None, &none, ["some title", "-", "-", "-"]),
        (Some("u"), &none, ["some title", "*", "-", "-"]),
        (Some("u"), &viewer, ["some title", "*", "-", "-"]),
        (Some("u"), &developer, ["some *", "*", "some *", "some *"]),
        (None, &mailer, ["secret+title", "-", "-", "-"]),
        (None, &other, ["some title", "-", "-", "-"]),
        (Some("u"), &admin, ["*", "*", "*", "*"]),
    ] {
        assert_eq!(verdict(user, roles), wanted, "{user:?} {roles:?}");
    }
    assert_eq!(resolve(&asker(Some("u"), &viewer), &spec(json!([])), Action::Read), Verdict::Denied, "no rule, no access");
}

#[test]
fn rules_are_checked_when_they_are_written() {
    for (rule, part) in [
        (json!({"role": "everyone", "action": "read"}), "permissions[0].role"),
        (json!({"role": "service:", "action": "read"}), "permissions[0].role"),
        (json!({"role": "service:a b", "action": "read"}), "permissions[0].role"),
        (json!({"role": "public", "action": "read", "filter": {"nope": 1}}), "permissions[0].filter"),
        (json!({"role": "public", "action": "read", "fields": ["nope"]}), "permissions[0].fields"),
        (json!({"role": "public", "action": "delete", "fields": ["title"]}), "permissions[0].fields"),
    ] {
        let found = spec(json!([rule])).check().expect_err("refused");
        assert_eq!(found[0].path, part, "{rule}");
    }
    let good = json!([{"role": "service:a.b", "action": "*", "fields": ["*"]}, {"role": "admin", "action": "read", "fields": ["ownerId"], "filter": {"createdAt": {"_gt": "$now-1w"}}}]);
    spec(good).check().expect("accepted");
    for rule in [json!({"role": "public", "action": "write"}), json!({"role": "public"}), json!({"role": "public", "action": "read", "rows": 1})] {
        assert!(serde_json::from_value::<Rule>(rule.clone()).is_err(), "{rule}");
    }
}

const ROLES: [&str; 6] = ["public", "authenticated", "viewer", "developer", "builder", "service:x"];

fn rules() -> impl Strategy<Value = Value> {
    let filter = prop_oneof![
        Just(Value::Null),
        Just(json!({"title": "a"})),
        Just(json!({"ownerId": "$user.id"})),
        Just(json!({"$not": {"ownerId": "$user.id"}})),
        Just(json!({"state": {"_neq": "b"}})),
    ];
    let fields = prop_oneof![Just(Value::Null), Just(json!([])), Just(json!(["title"])), Just(json!(["secret", "ownerId"])), Just(json!(["*"]))];
    let rule = (prop::sample::select(&ROLES[..]), prop::sample::select(&["read", "*", "update"][..]), filter, fields)
        .prop_map(|(role, action, filter, fields)| json!({"role": role, "action": action, "filter": filter, "fields": fields}));
    prop::collection::vec(rule, 0..6).prop_map(Value::from)
}

proptest! {
    #[test]
    fn more_roles_never_see_less(rules in rules(), held in prop::collection::vec(prop::sample::select(&ROLES[2..]), 0..3), more in prop::sample::select(&ROLES[2..]), user in any::<bool>(),
        title in "[ab]", owner in prop::option::of(prop::sample::select(&["u", "v"][..]))) {
        let spec = spec(rules);
        let user = user.then_some("u");
        let few: Vec<String> = held.into_iter().map(str::to_owned).collect();
        let many: Vec<String> = few.iter().cloned().chain([more.to_owned()]).collect();
        let item = ItemRecord { id: "i".into(), owner_id: owner.map(str::to_owned), doc: json!({"title": title}).as_object().cloned().expect("an object"), created_at_ms: 0, updated_at_ms: 0, generation: 1 };
        let context = Context { user_id: user.map(str::to_owned), now_ms: 5 };
        let sees = |roles: &[String]| match resolve(&asker(user, roles), &spec, Action::Read) {
            Verdict::Denied => None,
            Verdict::Allowed(allowed) => Some((allowed.filter.is_none_or(|filter| filter.matches(&item, &context)), allowed.fields)),
        };
        if let Some((row, fields)) = sees(&few) {
            let (more_row, more_fields) = sees(&many).expect("still allowed");
            prop_assert!(more_row || !row);
            match (fields, more_fields) {
                (_, None) => {}
                (None, Some(_)) => prop_assert!(false, "fields were taken away"),
                (Some(fields), Some(more)) => prop_assert!(fields.is_subset(&more)),
            }
        }
        // And the system sees what is public, whatever else there is.
        let of_public = CollectionSpec { permissions: spec.permissions.iter().filter(|rule| rule.role == PUBLIC).cloned().collect(), ..spec.clone() };
        prop_assert_eq!(resolve(&Asker::default(), &spec, Action::Read), resolve(&Asker::default(), &of_public, Action::Read));
    }
}
