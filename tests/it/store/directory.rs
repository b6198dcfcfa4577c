//! What projects know of people, companies and things of their own.

use jiff::SignedDuration;
use tidegate::{
    model::{Name, ProjectId, RawJson},
    store::{Database, Entity, Upsert},
};

use super::home::{Home, now, projects};

fn table(name: &str) -> Name {
    name.parse().unwrap()
}

fn entity(key: &str, fields: &str) -> Entity {
    let fields = RawJson::parse(fields.to_owned()).unwrap();
    Entity { key: key.to_owned(), fields, updated_at: now() }
}

async fn put(store: &dyn Database, project: ProjectId, name: &str, rows: Vec<Entity>, how: Upsert) {
    store.put_entities(project, &table(name), rows, how).await.unwrap();
}

async fn find(store: &dyn Database, project: ProjectId, name: &str, key: &str) -> Option<String> {
    let found = store.find_entities(project, vec![(table(name), key.to_owned())]).await.unwrap();
    assert_eq!(found.len(), 1);
    found[0].as_ref().map(|it| it.as_str().to_owned())
}

pub async fn rows_are_found_by_project_table_and_key_only(home: &dyn Home) {
    let open = home.open().await;
    let store = &*open.store;
    let [ours, theirs] = [projects(1), projects(2)];
    let rows = vec![entity("ann", r#"{"n":1.50}"#), entity("bob", r#"{"n":2}"#)];
    put(store, ours, "people", rows, Upsert::Replace).await;
    put(store, ours, "companies", vec![entity("ann", r#"{"n":3}"#)], Upsert::Replace).await;
    put(store, theirs, "people", vec![entity("ann", r#"{"n":4}"#)], Upsert::Replace).await;

    let open = home.open_again_after_crash(open).await;
    let store = &*open.store;

    assert_eq!(find(store, ours, "people", "ann").await.as_deref(), Some(r#"{"n":1.50}"#));
    assert_eq!(find(store, ours, "companies", "ann").await.as_deref(), Some(r#"{"n":3}"#));
    assert_eq!(find(store, theirs, "people", "ann").await.as_deref(), Some(r#"{"n":4}"#));
    assert_eq!(find(store, theirs, "people", "bob").await, None);
    assert_eq!(find(store, projects(3), "people", "ann").await, None);
    // In the order of the keys that are asked for, each as often as it is
    let keys = ["bob", "nobody", "ann", "bob"].map(|it| (table("people"), it.to_owned()));
    let found = store.find_entities(ours, keys.to_vec()).await.unwrap();
    let found: Vec<_> = found.iter().map(|it| it.as_ref().map(|it| it.as_str())).collect();
    let bob = Some(r#"{"n":2}"#);
    assert_eq!(found, [bob, None, Some(r#"{"n":1.50}"#), bob]);
    assert!(store.find_entities(ours, Vec::new()).await.unwrap().is_empty());
}

pub async fn fields_are_merged_or_replaced_and_the_later_of_two_counts(home: &dyn Home) {
    let open = home.open().await;
    let store = &*open.store;
    let ours = projects(1);
    let rows = vec![
        entity("ann", r#"{"a":1,"b":2}"#),
        entity("ann", r#"{"b":null,"c":{"d":3}}"#),
        entity("bob", r#"{"x":1}"#),
    ];
    put(store, ours, "people", rows.clone(), Upsert::Merge).await;
    assert_eq!(find(store, ours, "people", "ann").await.as_deref(), Some(r#"{"a":1,"c":{"d":3}}"#));

    let more = vec![entity("ann", r#"{"a":null,"e":5}"#), entity("bob", r#"{"y":2}"#)];
    put(store, ours, "people", more, Upsert::Merge).await;
    assert_eq!(find(store, ours, "people", "ann").await.as_deref(), Some(r#"{"c":{"d":3},"e":5}"#));
    assert_eq!(find(store, ours, "people", "bob").await.as_deref(), Some(r#"{"x":1,"y":2}"#));

    put(store, ours, "people", rows, Upsert::Replace).await;
    let last = find(store, ours, "people", "ann").await;
    assert_eq!(last.as_deref(), Some(r#"{"b":null,"c":{"d":3}}"#));
}

/// Each merges a field of its own into the same row: none is lost.
pub async fn merges_at_the_same_time_see_each_other(home: &dyn Home) {
    let open = home.open().await;
    let merges = (0..32).map(|n| {
        let store = open.store.clone();
        tokio::spawn(async move {
            let row = entity("ann", &format!(r#"{{"f{n}":{n}}}"#));
            put(&*store, projects(1), "people", vec![row], Upsert::Merge).await;
        })
    });
    for merge in merges.collect::<Vec<_>>() {
        merge.await.unwrap();
    }
    let found = find(&*open.store, projects(1), "people", "ann").await.unwrap();
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&found).unwrap();
    assert_eq!(fields.len(), 32);
}

pub async fn a_list_is_in_the_order_of_bytes_and_goes_on_behind_any_key(home: &dyn Home) {
    let open = home.open().await;
    let store = &*open.store;
    let ours = projects(1);
    let mut keys: Vec<String> =
        ["Z", "a", "ä", "b c", "0", "10", "2", "\u{10ffff}", "a\u{0}b", "_", "a b"]
            .map(str::to_owned)
            .into();
    keys.extend((0..40).map(|n| format!("key {n}")));
    let row = |(n, key): (i64, &String)| Entity {
        updated_at: now() + SignedDuration::from_micros(n),
        ..entity(key, &format!(r#"{{"k":{n}}}"#))
    };
    let rows: Vec<Entity> = (0..).zip(&keys).map(row).collect();
    put(store, ours, "people", rows.clone(), Upsert::Replace).await;
    put(store, projects(2), "people", vec![entity("other", "{}")], Upsert::Replace).await;
    put(store, ours, "peoples", vec![entity("other", "{}")], Upsert::Replace).await;

    let mut sorted = rows.clone();
    sorted.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = store.list_entities(ours, &table("people"), &after, 7).await.unwrap();
        assert!(page.len() <= 7);
        let Some(last) = page.last() else { break };
        after = last.key.clone();
        found.extend(page);
    }
    assert_eq!(found, sorted);

    let gone = ["a", "nobody", "key 7"].map(str::to_owned).to_vec();
    assert_eq!(store.remove_entities(ours, &table("people"), gone.clone()).await.unwrap(), 2);
    assert_eq!(store.remove_entities(ours, &table("people"), gone).await.unwrap(), 0);
    let left = store.list_entities(ours, &table("people"), "", 1000).await.unwrap();
    assert_eq!(left.len(), keys.len() - 2);
    let theirs = store.list_entities(projects(2), &table("people"), "", 10).await.unwrap();
    assert_eq!(theirs.len(), 1);
}
