use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("sandbar-outbox-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).expect("a folder");
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn about(at: i64) -> About {
    About {
        created_at_ms: at,
        from: "a@a.test".into(),
        to: vec!["b@b.test".into()],
        cc: Vec::new(),
        subject: format!("mail {at}"),
        script_id: None,
        script_name: Some("digest".into()),
        run_id: None,
    }
}

#[tokio::test]
async fn mails_are_kept_for_their_team() {
    let dir = Dir::new();
    let outbox = Outbox::new(&dir.0);
    assert_eq!(outbox.list("t", None, 10).unwrap(), []);
    for at in 1..=3 {
        outbox.put("t", about(at), format!("text {at}").into_bytes()).await.unwrap();
    }
    outbox.put("u", about(9), b"other".to_vec()).await.unwrap();
    let listed = outbox.list("t", None, 2).unwrap();
    assert_eq!(listed.iter().map(|kept| kept.about.subject.as_str()).collect::<Vec<_>>(), ["mail 3", "mail 2"]);
    let rest = outbox.list("t", Some(&listed[1].id), 10).unwrap();
    assert_eq!(rest.iter().map(|kept| kept.about.created_at_ms).collect::<Vec<_>>(), [1]);
    let (kept, text) = outbox.get("t", &listed[0].id).unwrap().expect("is there");
    assert_eq!((kept.about, text.as_str(), kept.bytes), (about(3), "text 3", 6));
    // Of another team, and what is no id.
    for id in [outbox.list("u", None, 1).unwrap()[0].id.as_str(), "", "..", "../t", "x/../../secret"] {
        assert!(outbox.get("t", id).unwrap().is_none(), "{id}");
    }
    outbox.forget("t").await;
    outbox.forget("t").await;
    outbox.forget("..").await;
    assert!(outbox.list("t", None, 10).unwrap().is_empty() && outbox.list("u", None, 10).unwrap().len() == 1);
    for team in ["", "..", "a/b"] {
        assert!(outbox.list(team, None, 1).is_err(), "{team}");
    }
}

#[test]
fn the_oldest_go_when_there_are_too_many_or_too_large_ones() {
    let dir = Dir::new();
    let outbox = Outbox::new(&dir.0);
    let team = outbox.team_dir("t").unwrap();
    fs::create_dir_all(&team).unwrap();
    for at in 0..limits::OUTBOX_MAX {
        fs::write(team.join(format!("{at:013}-x.{MAIL}")), "x").unwrap();
        fs::write(team.join(format!("{at:013}-x.{ABOUT}")), "{}").unwrap();
    }
    outbox.write("t", &about(5_000_000), b"new").unwrap();
    let kept = names(&team).unwrap();
    assert_eq!((kept.len(), kept[0].0.as_str()), (limits::OUTBOX_MAX, "0000000000001-x"));
    assert!(!team.join(format!("{:013}-x.{ABOUT}", 0)).exists());
    // One that takes all of the room leaves itself alone.
    let huge = fs::File::create(team.join(format!("{:013}-huge.{MAIL}", 4_000_000))).unwrap();
    huge.set_len(limits::OUTBOX_MAX_BYTES).unwrap();
    outbox.write("t", &about(6_000_000), b"newest").unwrap();
    let kept = names(&team).unwrap();
    assert_eq!(kept.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>(), [3, 6]);
}

#[test]
fn what_is_not_whole_is_not_there() {
    let dir = Dir::new();
    let outbox = Outbox::new(&dir.0);
    outbox.write("t", &about(1), b"mail").unwrap();
    let team = outbox.team_dir("t").unwrap();
    fs::write(team.join(format!("{:013}-x.{MAIL}.{NEW}", 2)), "ha").unwrap();
    fs::write(team.join(format!("{:013}-y.{ABOUT}", 3)), "{}").unwrap();
    fs::write(team.join(format!("{:013}-z.{MAIL}", 4)), "no word about it").unwrap();
    assert_eq!(outbox.list("t", None, 10).unwrap().len(), 1);
}
