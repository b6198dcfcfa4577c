//! The command line as a whole: what parses, what does not, and what it says.

use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("tidegate").chain(line.split_whitespace()))
}

#[test]
fn the_command_line_is_sound() {
    command().debug_assert();
}

#[test]
fn examples_in_the_help_parse() {
    let id = "01ka0000000000000000000000";
    for line in [
        "apply acme.yaml --prune --yes",
        "plan acme.yaml --json",
        "export --out acme.yaml",
        "emit user.signed_up --data {} --key k --timestamp 2026-07-31T14:00:00Z --count 10",
        "tail --type user.* --destination crm --failed --json",
        "listen --forward-to http://localhost:3000/hooks --events user.*,order.paid",
        "sink --listen 127.0.0.1:0 --secret whsec_x --fail-rate 0.2 --status 503 --latency 50ms --quiet",
        "status --json",
        "events list --type user.* --source app --since 1h --until 2026-07-31T14:00:00Z --limit 5",
        &format!("events show evt_{id} --body"),
        "events export --out week.ndjson --since 7d",
        "deliveries list --destination crm --state dead",
        &format!("deliveries show dlv_{id}"),
        "dead-letters --since 24h",
        "replay --destination crm --state dead --since 1h --type user.* --yes --fresh-id --watch",
        &format!("replay --event evt_{id} --plan"),
        &format!("replay cancel rpl_{id}"),
        &format!("replay show rpl_{id} --watch"),
        "deletions create u-1 --field user.id --erase --suppress --yes --watch",
        "deletions list --json",
        &format!("deletions show del_{id} --watch"),
        &format!("deletions cancel del_{id}"),
        &format!("deletions lift del_{id}"),
        "destinations list",
        "destinations verify crm",
        "destinations test crm --type user.signed_up --data {}",
        "destinations pause crm",
        "destinations rotate-secret crm --overlap 0s --yes",
        "keys create app --scopes ingest,read --expires-in 90d",
        "keys list --json",
        &format!("keys revoke key_{id} --yes"),
        "sign --secret whsec_x --scheme stripe --timestamp 1",
        "verify --secret x --scheme customerio --first-element --signature abc",
        "verify --secret whsec_x --id evt_1 --timestamp 1 --signature v1,x",
        "config",
        "config --effective --config tidegate.toml",
        "status --url https://gateway.acme.com/tidegate --api-key k --project acme",
        "--url http://localhost:1 status",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn contradictory_flags_are_refused() {
    for line in [
        "emit",
        "emit bad/type",
        "emit x --count 0",
        "listen",
        "listen --forward-to ftp://localhost:3000",
        "serve --listen :8080",
        "sink --fail-rate 2",
        "sink --status 99",
        "sink --quiet --json",
        "tail --type user.*.x",
        "deliveries list --state Dead",
        "replay --state dead --plan --yes",
        "keys create app",
        "keys create app --scopes root",
        "verify --secret x",
        "config --config tidegate.toml",
        "sign",
        "status --url ftp://x",
    ] {
        let Err(error) = parse(line) else { panic!("{line} was taken") };
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn a_server_of_ones_own_may_be_named_short() {
    for (text, url) in [
        ("3000", "http://localhost:3000/"),
        ("localhost:3000", "http://localhost:3000/"),
        ("localhost:3000/hooks?a=1", "http://localhost:3000/hooks?a=1"),
        ("https://dev.example.com", "https://dev.example.com/"),
    ] {
        assert_eq!(super::server_url(text).unwrap().as_str(), url);
    }
}

#[test]
fn listen_addresses_are_explained() {
    let text = "localhost:8080";
    assert_eq!(super::listen_address(text), Ok("127.0.0.1:8080".parse().unwrap()));
    assert_eq!(super::listen_address("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
    for text in [":8080", "8080", "example.com:80", "127.0.0.1"] {
        let error = super::listen_address(text).unwrap_err();
        assert!(error.contains("127.0.0.1:8080"), "{text}: {error}");
    }
}

#[test]
fn every_command_has_help_with_examples() {
    let mut groups = vec![command()];
    while let Some(group) = groups.pop() {
        for command in group.get_subcommands().filter(|it| it.get_name() != "help") {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} says nothing of itself");
            for argument in command
                .get_arguments()
                .filter(|it| !matches!(it.get_id().as_str(), "help" | "version"))
            {
                assert!(
                    argument.get_help().is_some(),
                    "{name} {} is not explained",
                    argument.get_id()
                );
            }
            groups.push(command.clone());
        }
    }
    for command in
        command().get_subcommands().filter(|it| !matches!(it.get_name(), "help" | "status"))
    {
        assert!(command.get_after_help().is_some(), "{} has no examples", command.get_name());
    }
}

#[test]
fn help_is_no_error() {
    let error = parse("emit --help").map(drop).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::DisplayHelp, 0));
}

#[tokio::test]
async fn the_admin_key_counts_where_no_other_is_given() {
    let admin = |name: &str| (name == "TIDEGATE_ADMIN_KEY").then(|| "admin".to_owned());
    for (given, expected) in
        [(Some("own"), Some("own")), (Some(""), Some("admin")), (None, Some("admin"))]
    {
        let mut global = parse("status --api-key own").unwrap().global;
        global.api_key = given.map(str::to_owned);
        let context = global.context(admin);
        assert_eq!(context.client.key().map(Secret::expose), expected);
    }
}

#[tokio::test]
async fn a_missing_key_says_how_to_get_one() {
    let mut global = parse("status").unwrap().global;
    global.api_key = None;
    let context = global.context(|_| None);
    let error = context.client.get("/api/v1/events", &[]).await.unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.render(output::Paint::PLAIN);
    assert!(text.contains("TIDEGATE_API_KEY") && text.contains("tidegate keys create"), "{text}");
}
