//! What a node should claim and give back, from what the database said last.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{ClusterSnapshot, Duty, Lease, MemberId, Share};

/// What to do now. Nothing of it is sure: another node may be quicker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    pub claim: Vec<Share>,
    /// Held by this node, and meant for others. The work on it ends first.
    pub give_back: Vec<Share>,
}

/// Decides for one node. Every share of a duty is to be held by a node that has the role for it, and each such
/// node is to hold as many as the others, or one more. What is held well is left where it is: a
/// node that comes takes only what makes it equal, and a node that goes moves only what it held.
pub fn decide(me: MemberId, view: &ClusterSnapshot) -> Decision {
    let mut decision = Decision::default();
    for duty in Duty::ALL {
        decide_duty(me, view, duty, &mut decision);
    }
    decision
}

fn decide_duty(me: MemberId, view: &ClusterSnapshot, duty: Duty, decision: &mut Decision) {
    let role = duty.role();
    let able: Vec<MemberId> =
        view.members.iter().filter(|it| it.roles.contains(&role)).map(|it| it.id).collect();
    let shares: Vec<&Lease> = view.leases.iter().filter(|it| it.share.duty == duty).collect();
    let is_held = |it: &&&Lease| it.holder.is_some_and(|holder| able.contains(&holder));
    let mut counts: BTreeMap<MemberId, usize> = able.iter().map(|it| (*it, 0)).collect();
    for holder in shares.iter().filter(is_held).filter_map(|it| it.holder) {
        *counts.entry(holder).or_default() += 1;
    }
    let mine: Vec<Share> =
        shares.iter().filter(|it| it.holder == Some(me)).map(|it| it.share).collect();
    if !able.contains(&me) {
        decision.give_back.extend(mine);
        return;
    }
    let targets = targets(&counts, shares.len());
    let target = targets.get(&me).copied().unwrap_or(0);
    decision.give_back.extend(mine.iter().skip(target));
    // Who lacks some takes of the free ones in turn, so that two nodes rarely want the same.
    let lacks = |id: &MemberId| targets[id].saturating_sub(counts[id]);
    let before: usize = counts.keys().filter(|it| **it < me).map(lacks).sum();
    let free = shares.iter().filter(|it| !is_held(it)).map(|it| it.share);
    decision.claim.extend(free.skip(before).take(lacks(&me)));
}

/// How many each is to hold. Where it does not come out even, those that have most keep one more.
fn targets(counts: &BTreeMap<MemberId, usize>, shares: usize) -> BTreeMap<MemberId, usize> {
    let (floor, rest) = (shares / counts.len().max(1), shares % counts.len().max(1));
    let mut order: Vec<(MemberId, usize)> = counts.iter().map(|(id, n)| (*id, *n)).collect();
    order.sort_by_key(|(id, count)| (Reverse(*count), *id));
    let target =
        |(place, (id, _)): (usize, &(MemberId, usize))| (*id, floor + usize::from(place < rest));
    order.iter().enumerate().map(target).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::{Epoch, Member, Role};

    const SHARDS: u16 = 16;
    const WORKING: [Role; 2] = [Role::Pipeline, Role::Dispatch];

    fn member(id: u128, roles: &[Role]) -> Member {
        let name = format!("node-{id}");
        Member { id: MemberId(id), name, roles: roles.to_vec(), ..Member::default() }
    }

    /// All shares of both roles, none of them held.
    fn fresh(members: Vec<Member>) -> ClusterSnapshot {
        let of = |duty: Duty| (0..duty.shards(SHARDS)).map(move |shard| Share { duty, shard });
        let shares = Duty::ALL.into_iter().flat_map(of);
        let leases = shares.map(|share| Lease { share, holder: None, epoch: Epoch(0) }).collect();
        ClusterSnapshot { members, leases, ..ClusterSnapshot::default() }
    }

    /// Each node looks once, in turn, and does at once what it decided. Returns how many shares moved.
    fn round(view: &mut ClusterSnapshot) -> usize {
        let mut moved = 0;
        for me in view.members.iter().map(|it| it.id).collect::<Vec<_>>() {
            let decision = decide(me, view);
            for lease in &mut view.leases {
                if decision.give_back.contains(&lease.share) {
                    assert_eq!(lease.holder.take(), Some(me), "it gave back what it has not");
                    moved += 1;
                }
                let alive = |it: MemberId| view.members.iter().any(|member| member.id == it);
                if decision.claim.contains(&lease.share) && !lease.holder.is_some_and(alive) {
                    lease.holder = Some(me);
                    moved += 1;
                }
            }
        }
        moved
    }

    fn settle(view: &mut ClusterSnapshot) -> usize {
        let mut moved = 0;
        for _ in 0..10 {
            match round(view) {
                0 => return moved,
                more => moved += more,
            }
        }
        panic!("it does not come to rest: {view:?}");
    }

    fn counts(view: &ClusterSnapshot, duty: Duty) -> Vec<usize> {
        let held = |id| {
            let is_its = |it: &&Lease| it.share.duty == duty && it.holder == Some(id);
            view.leases.iter().filter(is_its).count()
        };
        let able = view.members.iter().filter(|it| it.roles.contains(&duty.role()));
        able.map(|it| held(it.id)).collect()
    }

    #[test]
    fn shares_are_dealt_out_evenly_and_a_newcomer_gets_its_part_without_a_storm() {
        let mut view = fresh(vec![member(1, &WORKING)]);
        settle(&mut view);
        assert_eq!(counts(&view, Duty::Pipeline), [16]);
        view.members.push(member(2, &WORKING));
        assert_eq!(settle(&mut view), 2 * 2 * 8, "eight of each role are given back and claimed");
        assert_eq!(counts(&view, Duty::Dispatch), [8, 8]);
        view.members.push(member(3, &WORKING));
        settle(&mut view);
        let mut spread = counts(&view, Duty::Dispatch);
        spread.sort();
        assert_eq!(spread, [5, 5, 6]);
        // What a dead node held, and only that, moves.
        let dead = view.members.remove(0).id;
        let orphans = view.leases.iter().filter(|it| it.holder == Some(dead)).count();
        assert_eq!(settle(&mut view), orphans);
        assert_eq!(counts(&view, Duty::Dispatch), [8, 8]);
    }

    #[test]
    fn only_a_node_with_the_role_holds_its_shares() {
        let mut view = fresh(vec![
            member(1, &[Role::Ingest, Role::Api]),
            member(2, &[Role::Pipeline]),
            member(3, &[Role::Dispatch]),
        ]);
        settle(&mut view);
        assert_eq!(counts(&view, Duty::Pipeline), [16]);
        assert_eq!(counts(&view, Duty::Dispatch), [16]);
        assert!(view.leases.iter().all(|it| it.holder != Some(MemberId(1))));
    }

    proptest! {
        #[test]
        fn shares_stay_held_and_balanced_as_nodes_come_and_go(
            changes in prop::collection::vec((1_u128..8, any::<bool>()), 1..30),
        ) {
            let mut view = fresh(vec![member(100, &WORKING)]);
            for (id, is_coming) in changes {
                view.members.retain(|it| it.id != MemberId(id));
                if is_coming {
                    view.members.push(member(id, &WORKING));
                }
                settle(&mut view);
                for duty in Duty::ALL {
                    let counts = counts(&view, duty);
                    let all = usize::from(duty.shards(SHARDS));
                    prop_assert_eq!(counts.iter().sum::<usize>(), all);
                    let (least, most) = (counts.iter().min(), counts.iter().max());
                    prop_assert!(most.unwrap() - least.unwrap() <= 1, "{counts:?}");
                }
            }
        }
    }
}
