//! A gateway starts only with the master key that its store was used with, and makes one only for a new store.

use std::{fs, path::Path, sync::Arc};

use tidegate::{
    app::{App, Parts, StartError},
    clock::SystemClock,
    config::Config,
    crypto::SystemRandom,
    destinations::egress::SystemResolver,
    model::Secret,
    resources::File,
};

use crate::{
    cli::program::{stderr, tidegate},
    harness::gateway::{SECRET, file},
};

const ONE: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER: &str = "/wECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const RESOURCES: &str = "version: 1\nproject: acme\nsources: [{ name: app, kind: api }]\n\
    destinations:\n  - { name: sink, kind: webhook, url: \"${URL}\", secret: \"${SECRET}\" }\n";

fn resources() -> File {
    file(RESOURCES, "https://hooks.example.com/a")
}

async fn start(data: &Path, key: Option<&str>, apply: bool) -> Result<App, StartError> {
    let config =
        Config { listen: ([127, 0, 0, 1], 0).into(), data: data.to_owned(), ..Config::default() };
    let parts = Parts {
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
        resolver: Arc::new(SystemResolver::default()),
        admin_key: None,
        master_key: key.map(Secret::new),
    };
    let resources = apply.then(resources);
    App::start(config, parts, resources.as_ref()).await
}

async fn refused(data: &Path, key: Option<&str>, apply: bool) -> StartError {
    match start(data, key, apply).await {
        Err(error) => error,
        Ok(_) => panic!("it starts with {key:?}, apply: {apply}"),
    }
}

#[tokio::test]
async fn a_start_without_the_master_key_is_refused() {
    // Given a store with a secret, whose key stands in the file
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    start(data, None, true).await.unwrap().stop().await;
    let key = fs::read(data.join("master.key")).unwrap();

    for apply in [false, true] {
        // When the file is gone, then no new one is made
        fs::remove_file(data.join("master.key")).unwrap();
        let error = refused(data, None, apply).await;
        assert!(matches!(error, StartError::LostMasterKey { .. }), "{error:?}");
        assert!(!data.join("master.key").exists());
        // When another is given, it is refused, too
        let error = refused(data, Some(OTHER), apply).await;
        assert!(matches!(error, StartError::WrongMasterKey { .. }), "{error:?}");
        // When any bit of the file is another, likewise
        for place in 0..key.len() - 1 {
            let mut damaged = key.clone();
            damaged[place] ^= 1 << (place % 8);
            fs::write(data.join("master.key"), &damaged).unwrap();
            let error = refused(data, None, apply).await;
            let is_told =
                matches!(error, StartError::WrongMasterKey { .. } | StartError::MasterKey(_));
            assert!(is_told, "{place}: {error:?}");
        }
        fs::write(data.join("master.key"), &key).unwrap();
    }
    // And with the right one all is as it was
    start(data, None, false).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_new_key_in_front_of_the_old_one_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    start(data, Some(ONE), true).await.unwrap().stop().await;
    start(data, Some(&format!("{OTHER},{ONE}")), false).await.unwrap().stop().await;
    // The old one is needed for as long as something is sealed with it, and the new one from now on.
    for key in [ONE, OTHER] {
        let error = refused(data, Some(key), false).await;
        assert!(matches!(error, StartError::WrongMasterKey { .. }), "{key}: {error:?}");
    }
    start(data, Some(&format!("{OTHER},{ONE}")), false).await.unwrap().stop().await;
}

#[tokio::test]
async fn a_store_of_an_earlier_version_takes_only_its_key() {
    // Given a store whose ids of keys are not kept
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    start(data, Some(ONE), true).await.unwrap().stop().await;
    let forget = || {
        let control = rusqlite::Connection::open(data.join("control.db")).unwrap();
        let sql = "DELETE FROM settings WHERE name = 'master_keys'";
        assert_eq!(control.execute(sql, []).unwrap(), 1);
        drop(control);
        // What a clean stop left was changed by hand.
        fs::remove_file(data.join("manifest")).unwrap();
    };
    forget();

    // Then its secrets say which key they need
    let error = refused(data, None, false).await;
    assert!(matches!(error, StartError::NoMasterKey { .. }), "{error:?}");
    assert!(!data.join("master.key").exists());
    let error = refused(data, Some(OTHER), true).await;
    assert!(matches!(error, StartError::WrongMasterKey { .. }), "{error:?}");

    // And the first start that proves the key keeps its id
    start(data, Some(ONE), false).await.unwrap().stop().await;
    forget();
    start(data, Some(ONE), false).await.unwrap().stop().await;
    let error = refused(data, None, false).await;
    assert!(matches!(error, StartError::LostMasterKey { .. }), "{error:?}");
}

#[tokio::test]
async fn errors_about_the_master_key_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    start(&data, None, true).await.unwrap().stop().await;
    let words = ["serve", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    let says = |key: Option<&str>| {
        let mut command = tidegate(&words);
        command.env("SECRET", SECRET);
        if let Some(key) = key {
            command.env("TIDEGATE_MASTER_KEY", key);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let other = says(Some(OTHER));
    assert!(other.contains("next: give the key that was used before"), "{other}");
    assert!(says(Some("x")).contains("next: correct TIDEGATE_MASTER_KEY"));
    // A file of the length of a key that is none
    fs::write(data.join("master.key"), "nonsense").unwrap();
    let damaged = says(None);
    assert!(damaged.contains("is damaged: it holds no key"), "{damaged}");
    fs::remove_file(data.join("master.key")).unwrap();
    let lost = says(None);
    assert!(lost.contains("which is missing\nnext: restore master.key from its backup"), "{lost}");
    assert!(!data.join("master.key").exists());
}

#[tokio::test]
async fn the_data_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    // Given a folder as an earlier version made it
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let open_to_others = |from: &Path| {
        let mut open = Vec::new();
        let mut folders = vec![from.to_owned()];
        while let Some(folder) = folders.pop() {
            for path in std::iter::once(folder.clone())
                .chain(fs::read_dir(&folder).unwrap().map(|it| it.unwrap().path()))
            {
                let found = fs::metadata(&path).unwrap();
                if found.permissions().mode() & 0o077 != 0 {
                    open.push(path.clone());
                }
                if found.is_dir() && path != folder {
                    folders.push(path);
                }
            }
        }
        open
    };
    let app = start(&data, None, true).await.unwrap();
    assert_eq!(open_to_others(&data), Vec::<std::path::PathBuf>::new());
    app.stop().await;
    assert_eq!(open_to_others(&data), Vec::<std::path::PathBuf>::new());

    // When all may read it, then the next start closes it
    for path in [data.clone(), data.join("control.db"), data.join("segments/0000000000000001.db")] {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    start(&data, None, false).await.unwrap().stop().await;
    assert_eq!(open_to_others(&data), Vec::<std::path::PathBuf>::new());
}
