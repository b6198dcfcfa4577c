//! Two nodes under one name, which is what two machines of one host name have.

use tidegate::{app::StartError, store::Role};

use super::{database, node::Node};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_living_node_of_a_name_is_refused() {
    // Given a node that works,
    let database = database();
    let first = Node::start("twin", &database).await;
    first.holds(16).await;

    // when another of its name starts, it is refused, and the first goes on,
    let refused = Node::try_start("twin", &database, &Role::ALL).await.err();
    assert!(
        matches!(&refused, Some(StartError::NameTaken { name, .. }) if name == "twin"),
        "{refused:?}"
    );
    first.holds(16).await;

    // and once the first has ended without a word, the name is free.
    first.kill();
    let second = Node::start("twin", &database).await;
    second.holds(16).await;
    second.stop().await;
}
