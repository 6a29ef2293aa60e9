//! Disks that lose what they had stored. A cluster bears that of one node at a time: it was whole before, and is whole again
//! before anything else of this kind happens.

use saola_raft::Role;
use saola_raft::sim::spawn_on;
use saola_storage::disk::Disk;
use saola_storage::disk::sim::Operation;
use tokio::time::Instant;

use super::dice::Dice;
use super::faults::{Fault, TURN_MS, WHOLE_WITHIN};
use super::world::World;

impl World {
    /// Does it to a node, and has operators do what they would.
    pub(super) async fn damage(&mut self, fault: Fault, node: u64, dice: &mut Dice) {
        match fault {
            Fault::OldFolder => {
                self.kill(node).await;
                let copy = self.cluster.copy(node);
                self.start(node).await;
                // A backup that meets a bad sector fails, and nobody puts it back.
                let Ok(copy) = copy else { return };
                self.pass(dice.ms(0, TURN_MS)).await;
                // What it acknowledged since is at all others too.
                self.be_whole().await;
                self.kill(node).await;
                self.cluster.put_back(node, &copy);
                self.happened(fault, node);
                self.comes_back_or_is_replaced(node).await;
            }
            Fault::Wiped => {
                self.crash(node).await;
                self.happened(fault, node);
                self.pass(dice.ms(0, TURN_MS)).await;
                self.replace(node).await;
            }
            Fault::LostWrite | Fault::MisdirectedWrite => {
                let how = match fault {
                    Fault::LostWrite => Operation::LostWrite,
                    _ => Operation::MisdirectedWrite,
                };
                self.cluster.disk(node).fail_nth(how, 1 + dice.below(12));
                self.pass(dice.ms(100, TURN_MS)).await;
                // What it acknowledged meanwhile is at all others too.
                self.be_whole().await;
                match dice.one_in(4) {
                    true => self.kill(node).await,
                    false => self.crash(node).await,
                }
                self.happened(fault, node);
                self.pass(dice.ms(0, 500)).await;
                self.comes_back_or_is_replaced(node).await;
            }
            _ => {
                // Others may have entries that were never committed, or lack what was.
                if dice.one_in(2)
                    && let Some(apart) = self.leader().filter(|leader| *leader != node)
                {
                    self.tell(format!("{apart} is cut off"));
                    let others: Vec<u64> = self.cluster.ids().into_iter().filter(|other| *other != apart).collect();
                    self.cluster.part(&[apart], &others);
                    self.pass(dice.ms(0, TURN_MS)).await;
                    self.cluster.network.heal();
                    self.cluster.part(&[apart], &others.into_iter().filter(|other| *other != node).collect::<Vec<_>>());
                }
                match dice.one_in(2) {
                    true => self.crash(node).await,
                    false => self.kill(node).await,
                }
                self.pass(dice.ms(0, 500)).await;
                for _ in 0..1 + dice.below(4) {
                    self.hurt_log(fault, node, dice);
                }
                self.happened(fault, node);
                self.comes_back_or_is_replaced(node).await;
            }
        }
    }

    fn hurt_log(&self, fault: Fault, node: u64, dice: &mut Dice) {
        let disk = self.cluster.disk(node);
        let names = disk.list().expect("the disk of a node that is down reads");
        let segments: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.ends_with(".seg")).collect();
        let Some(name) = dice.pick(&segments) else { return };
        let length = disk.open(name, false).and_then(|file| file.len());
        let at = dice.below(length.expect("a listed file has a length"));
        match fault {
            Fault::LogRot => disk.flip_bit(name, at, dice.below(8) as u8),
            _ => disk.make_unreadable(name, at / 512 * 512..at / 512 * 512 + 512),
        };
    }

    /// Starts a node whose disk is not what it was: it goes on, or says that it must be replaced.
    async fn comes_back_or_is_replaced(&mut self, node: u64) {
        self.start(node).await;
        self.cluster.network.heal();
        let began = Instant::now();
        loop {
            if self.refuses.contains_key(&node) {
                return self.replace(node).await;
            }
            let status = self.cluster.replica(node).map(|it| it.status());
            match status.as_ref().map(|it| it.state) {
                Some("refused") => {
                    self.tell(format!("{node} is refused"));
                    return self.replace(node).await;
                }
                _ if self.lacks().is_none() => return,
                state => assert!(began.elapsed() < WHOLE_WITHIN, "node {node} is {state:?}: {:?}", self.lacks()),
            }
            self.pass(std::time::Duration::from_millis(20)).await;
            self.start_all().await;
        }
    }

    /// As an operator replaces a node whose disk is gone: another one, under a new number.
    async fn replace(&mut self, old: u64) {
        self.kill(old).await;
        let was =
            self.cluster.members().into_iter().find(|it| it.node_id == old).expect("it is a node of this cluster");
        let id = self.new_id();
        let role = if was.role_value() == Role::Witness { Role::Witness } else { was.role_value() };
        let member = self.cluster.add(id, &was.site, role);
        self.start(id).await;
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < WHOLE_WITHIN, "node {old} cannot be replaced by {id}: {:?}", self.lacks());
            if let Some(through) = self.leader()
                && let Some(replica) = self.cluster.replica(through)
            {
                let member = member.clone();
                let replacing = spawn_on(through, async move { replica.replace_member(old, member).await });
                // Else the leader waits for somebody, or is none any more: it is asked again.
                if let Ok(Ok(_)) = replacing.await {
                    break;
                }
            }
            self.pass(std::time::Duration::from_millis(100)).await;
            self.start_all_but(old).await;
        }
        self.forget(old).await;
        self.tell(format!("{id} takes the place of {old}"));
    }
}
