//! Faults that come and go by themselves, over and over.

use saola_raft::sim::pause;
use tokio::time::Instant;

use super::dice::Dice;
use super::world::World;

impl World {
    /// Cuts a node off; answers which links that were not cut before.
    fn cut_off(&self, node: u64) -> Vec<(u64, u64)> {
        let others = self.cluster.ids().into_iter().filter(|other| *other != node);
        let links = others.flat_map(|other| [(node, other), (other, node)]);
        let links: Vec<(u64, u64)> = links.filter(|(from, to)| !self.cluster.network.is_cut(*from, *to)).collect();
        links.iter().for_each(|(from, to)| self.cluster.network.cut(*from, *to));
        links
    }

    fn join(&self, links: &[(u64, u64)]) {
        links.iter().for_each(|(from, to)| self.cluster.network.join(*from, *to));
    }

    /// A node's links break and come back.
    pub(super) async fn flap(&mut self, node: u64, dice: &mut Dice) {
        let [longest_cut, longest_whole] =
            [dice.pick(&[50, 300, 1_500]), dice.pick(&[50, 300])].map(|it| it.unwrap_or(50));
        for _ in 0..2 + dice.below(8) {
            let cut = self.cut_off(node);
            self.pass(dice.ms(1, longest_cut)).await;
            self.join(&cut);
            self.pass(dice.ms(1, longest_whole)).await;
        }
    }

    /// Nodes are cut off one by one, and come back in another order (FoundationDB's swizzle-clogging).
    pub(super) async fn swizzle(&mut self, dice: &mut Dice) {
        let mut cuts = Vec::new();
        for node in self.cluster.ids() {
            if dice.one_in(2) {
                cuts.push(self.cut_off(node));
                self.pass(dice.ms(1, 400)).await;
            }
        }
        while !cuts.is_empty() {
            let first = dice.below(cuts.len() as u64) as usize;
            self.join(&cuts.swap_remove(first));
            self.pass(dice.ms(1, 400)).await;
        }
    }

    /// A node stands still and goes on.
    pub(super) async fn stutter(&mut self, node: u64, dice: &mut Dice) {
        for _ in 0..2 + dice.below(10) {
            if self.cluster.replica(node).is_none() {
                return;
            }
            let still = dice.ms(5, 400);
            pause(node);
            self.goes_on_at(node, Instant::now() + still);
            self.pass(still + dice.ms(1, 200)).await;
        }
    }

    /// A node loses power as soon as it is back.
    pub(super) async fn crash_again_and_again(&mut self, node: u64, dice: &mut Dice) {
        for _ in 0..2 + dice.below(4) {
            self.crash(node).await;
            self.start(node).await;
            self.pass(dice.ms(0, 400)).await;
        }
    }

    /// Whoever leads dies, and is back before the next one does.
    pub(super) async fn kill_leaders(&mut self, dice: &mut Dice) {
        for _ in 0..2 + dice.below(3) {
            if let Some(leader) = self.leader() {
                self.kill(leader).await;
                self.pass(dice.ms(100, 2_000)).await;
                self.start(leader).await;
            }
            self.pass(dice.ms(0, 500)).await;
        }
    }

    /// A clock is set ahead and back.
    pub(super) async fn strobe_clock(&mut self, node: u64, dice: &mut Dice) {
        let by_us = dice.pick(&[2_000, 500_000, 60_000_000]).unwrap_or(500_000);
        for _ in 0..3 + dice.below(20) {
            self.cluster.step_clock(node, by_us);
            self.pass(dice.ms(1, 60)).await;
            self.cluster.step_clock(node, -by_us);
            self.pass(dice.ms(1, 60)).await;
        }
    }
}
