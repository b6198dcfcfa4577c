//! What the vault promises.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::crypto::random::SeededRandom;

const OLD: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const NEW: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

fn random() -> Arc<dyn Random> {
    Arc::new(SeededRandom::new(7))
}

fn vault(keys: &str) -> Vault {
    Vault::load(Path::new("/nowhere"), Some(&Secret::new(keys)), random()).unwrap()
}

fn context(project: u128, destination: u128, field: SecretField) -> SealContext {
    SealContext::of_destination(
        ProjectId::from_bits(project),
        DestinationId::from_bits(destination),
        field,
    )
}

#[test]
fn a_secret_opens_where_it_was_sealed_and_nowhere_else() {
    let vault = vault(NEW);
    let secret = Secret::new("whsec_p→ssword");
    let here = context(1, 2, SecretField::SigningKey);
    let sealed = vault.seal(&secret, &here);

    assert_eq!(vault.open(&sealed, &here), Ok(secret));
    for elsewhere in [
        context(9, 2, SecretField::SigningKey),
        context(1, 9, SecretField::SigningKey),
        context(1, 2, SecretField::BearerToken),
    ] {
        assert_eq!(vault.open(&sealed, &elsewhere), Err(VaultError::Damaged), "{elsewhere}");
    }
}

#[test]
fn the_sealed_form_has_a_version_and_a_key_id_and_never_repeats() {
    let vault = vault(NEW);
    let here = context(1, 2, SecretField::BasicPassword);
    let once = vault.seal(&Secret::new("canary"), &here);
    let twice = vault.seal(&Secret::new("canary"), &here);
    assert!(once.as_text().starts_with(&format!("v1.{}.", vault.key_id())));
    assert_eq!(vault.key_id().len(), 8);
    assert_ne!(once, twice);
    assert!(!once.as_text().contains("canary"));
}

#[test]
fn every_changed_byte_is_noticed() {
    let vault = vault(NEW);
    let here = context(1, 2, SecretField::BasicPassword);
    let text = vault.seal(&Secret::new("canary"), &here).as_text().to_owned();
    for place in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        // The last digit before padding has bits that mean nothing, which the decoder refuses.
        assert!(vault.open(&Sealed::from_text(&changed), &here).is_err(), "{changed}");
    }
    for text in ["", "v1", "v1..", "v2.00000000.AAAA", "plain text"] {
        assert!(vault.open(&Sealed::from_text(text), &here).is_err(), "{text}");
    }
}

#[test]
fn old_keys_open_and_the_newest_seals() {
    let here = context(1, 2, SecretField::SigningKey);
    let old = vault(OLD);
    let both = vault(&format!("{NEW}, {OLD}"));
    let new = vault(NEW);
    let before = old.seal(&Secret::new("a"), &here);
    let after = both.seal(&Secret::new("b"), &here);

    assert_eq!(both.open(&before, &here), Ok(Secret::new("a")));
    assert_eq!(new.open(&after, &here), Ok(Secret::new("b")));
    let unknown = Err(VaultError::UnknownKey(old.key_id().to_owned()));
    assert_eq!(new.open(&before, &here), unknown);
}

#[test]
fn the_first_start_makes_a_key_file_that_only_its_owner_reads_and_the_next_uses_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data/master.key");
    let here = context(1, 2, SecretField::SigningKey);

    let missing = Vault::load(&path, None, random()).unwrap_err();
    assert!(missing.to_string().contains("master.key is missing"), "{missing}");
    let sealed =
        Vault::load_or_create(&path, None, random()).unwrap().seal(&Secret::new("a"), &here);
    let again = Vault::load_or_create(&path, None, Arc::new(SeededRandom::new(8))).unwrap();

    assert_eq!(again.open(&sealed, &here), Ok(Secret::new("a")));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_malformed_master_key_says_what_one_looks_like() {
    for text in ["", " ,", "short", "AAAA", &format!("{NEW},x"), &NEW.replace('=', "")] {
        let error = Vault::load(Path::new("/nowhere"), Some(&Secret::new(text)), random());
        assert!(matches!(error, Err(LoadError::Malformed)), "{text:?}");
    }
}

#[test]
fn nothing_of_a_vault_shows_its_key() {
    let vault = vault(NEW);
    assert_eq!(format!("{vault:?}"), format!("Vault({})", vault.key_id()));
}
