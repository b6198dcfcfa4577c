//! What somebody wants of whoever works for a destination: kept until that node takes it away.

use super::{
    PostgresStore,
    values::{self, delivery_of_row, delivery_to_row},
};
use crate::{
    model::{DeliverySeq, DestinationId},
    store::{ClusterCommand, NodeMessage, Result},
};

const PUT: &str = "INSERT INTO orders (shard, body) SELECT * FROM unnest($1::int[], $2::text[])";
const TAKE: &str = "DELETE FROM orders WHERE shard = ANY($1) RETURNING body";

impl PostgresStore {
    /// Who brings deliveries to a destination.
    pub fn shard_of_destination(&self, destination: DestinationId) -> u16 {
        values::shard_of_destination(destination, self.core.shards)
    }

    /// Tells the other nodes something, soon. It may be lost.
    pub fn tell(&self, word: NodeMessage) {
        self.core.notifier.notify(word);
    }

    /// Keeps orders for whoever works for these destinations, and tells of them.
    pub async fn order(&self, orders: &[(DestinationId, ClusterCommand)]) -> Result<()> {
        let shard = |it: DestinationId| i32::from(self.shard_of_destination(it));
        let (shards, bodies): (Vec<i32>, Vec<String>) =
            orders.iter().map(|(destination, order)| (shard(*destination), text(order))).unzip();
        let mut loan = self.core.session().await?;
        loan.session()?.execute(PUT, &[&shards, &bodies]).await?;
        self.core.notifier.notify(NodeMessage::Orders);
        Ok(())
    }

    /// Takes away the orders for the destinations of these shards.
    pub async fn take_orders(&self, shards: &[u16]) -> Result<Vec<ClusterCommand>> {
        let shards: Vec<i32> = shards.iter().map(|it| i32::from(*it)).collect();
        let mut loan = self.core.session().await?;
        let mut orders = Vec::new();
        for row in loan.session()?.query(TAKE, &[&shards]).await? {
            // What a newer program wants cannot be done here.
            orders.extend(order_of(row.try_get(0)?));
        }
        Ok(orders)
    }
}

fn text(order: &ClusterCommand) -> String {
    match order {
        ClusterCommand::Cancel(deliveries) => {
            let seqs: Vec<String> =
                deliveries.iter().map(|it| delivery_to_row(*it).to_string()).collect();
            format!("cancel {}", seqs.join(" "))
        }
        ClusterCommand::Poke(destination) => format!("poke {:x}", destination.bits()),
    }
}

fn order_of(text: &str) -> Option<ClusterCommand> {
    match text.split_once(' ')? {
        ("cancel", seqs) => {
            let seq = |it: &str| it.parse().ok().map(delivery_of_row);
            let seqs: Option<Vec<DeliverySeq>> = seqs.split_whitespace().map(seq).collect();
            seqs.map(ClusterCommand::Cancel)
        }
        ("poke", destination) => {
            let bits = u128::from_str_radix(destination, 16).ok()?;
            Some(ClusterCommand::Poke(DestinationId::from_bits(bits)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let seqs = [7, u64::MAX >> 1].map(DeliverySeq::from_bits);
        for order in [
            ClusterCommand::Cancel(seqs.to_vec()),
            ClusterCommand::Poke(DestinationId::from_bits(0xabc)),
        ] {
            assert_eq!(order_of(&text(&order)), Some(order));
        }
        assert_eq!(order_of("dance"), None);
    }
}
