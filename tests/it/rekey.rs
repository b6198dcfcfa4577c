//! `tidegate rekey`: an old master key is retired, and everything still opens.

use std::{fs, sync::Arc};

use tidegate::{
    app::rekey,
    clock::SystemClock,
    crypto::{SealContext, SystemRandom, Vault, vault::SecretField},
    model::{Connection, Secret},
};

use crate::harness::{
    caller::Caller,
    gateway::{Gateway, SECRET},
};

/// L15
#[tokio::test]
async fn a_folder_opens_under_its_new_master_key_alone() {
    // Given secrets, and an API key,
    let gateway = Gateway::delivering_to("http://127.0.0.1:9/", ", auth: { bearer: canary }").await;
    let reader = Caller::with_scopes(&gateway, "acme", &["read"]).await;
    let file = gateway.folder().join("master.key");
    let before = fs::read_to_string(&file).unwrap();
    let old = gateway.app.vault.key_id().to_owned();

    // when the master key is replaced,
    let gateway = gateway
        .restart_after(async |folder| {
            let done = rekey::rekey(folder, Arc::new(SystemClock), Arc::new(SystemRandom)).await;
            assert_eq!(done.unwrap(), 2);
            let after = fs::read_to_string(folder.join("master.key")).unwrap();
            assert!(!after.contains(before.trim()), "the old key is still there");
            let control = fs::read(folder.join("control.db")).unwrap();
            let text = String::from_utf8_lossy(&control);
            let destination = text.rfind("\"signing_keys\"").unwrap();
            assert!(!text[destination..].contains(&old), "a secret is sealed with the old key");
        })
        .await;

    // then the secrets open, and the API key as well.
    let vault = &gateway.app.vault;
    assert!(!vault.has_key(&old));
    let catalog = gateway.app.catalog_writer.current();
    let destination = catalog.destinations.values().next().unwrap();
    let Connection::Webhook(webhook) = &destination.connection else { panic!("it is a webhook") };
    let here =
        SealContext::of_destination(destination.project, destination.id, SecretField::SigningKey);
    assert_eq!(vault.open(&webhook.signing_keys[0].secret, &here), Ok(Secret::new(SECRET)));
    let reader = Caller::at(gateway.app.address, reader.key());
    reader.get("/api/v1/events").await.expect(200);
    // With the old key alone, nothing does.
    let random = Arc::new(SystemRandom);
    let old = Vault::load(&file, Some(&Secret::new(before.trim())), random).unwrap();
    assert!(old.open(&webhook.signing_keys[0].secret, &here).is_err());
}
