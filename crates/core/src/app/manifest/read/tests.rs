use super::*;

#[test]
fn the_examples_of_the_page_about_apps_are_right() {
    let example = r#"
start:
  command: "bun run dev --host 0.0.0.0"
  ports:
    - port: 3000
      label: web
      path: /
  timeoutSeconds: 900
actions:
  - name: generate-report
    command: "bun run report"
    timeoutSeconds: 900
    artifactPaths:
      - artifacts/report.json
  - name: smoke-test
    command: "bun run test:smoke"
    timeoutSeconds: 300
    requiresStart: true
services:
  - name: worker
    command: "bun run worker"
"#;
    let parsed = parse(example).expect("a manifest");
    let again = parse(&parsed.normalised.to_string()).expect("a manifest");
    assert_eq!(again, parsed, "its JSON says the same");
    assert_eq!(serde_json::from_value::<Manifest>(parsed.normalised).expect("a manifest"), parsed.manifest);
}
