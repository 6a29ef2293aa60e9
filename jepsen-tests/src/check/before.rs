//! The greatest key among the calls that had ended before an instant, in O(log n).

/// Prefix maxima over time.
pub struct Before<K> {
    /// Sorted by time; each with the greatest key up to then and the call that had it.
    maxima: Vec<(u64, K, u64)>,
}

impl<K: Ord + Copy> Before<K> {
    /// From (time, key, op id), in any order.
    pub fn new(mut calls: Vec<(u64, K, u64)>) -> Before<K> {
        calls.sort_unstable();
        for at in 1..calls.len() {
            let (_, best, op_id) = calls[at - 1];
            if calls[at].1 < best {
                calls[at].1 = best;
                calls[at].2 = op_id;
            }
        }
        Before { maxima: calls }
    }

    /// Greatest key strictly before `time`, and whose it is. Calls that touch at one instant count as overlapping.
    pub fn at(&self, time: u64) -> Option<(K, u64)> {
        let end = self.maxima.partition_point(|(at, _, _)| *at < time);
        let (_, key, op_id) = self.maxima[..end].last()?;
        Some((*key, *op_id))
    }
}

#[cfg(test)]
mod tests {
    use super::Before;

    #[test]
    fn greatest_key_before_an_instant() {
        let before = Before::new(vec![(30, 2, 103), (10, 5, 101), (20, 1, 102), (40, 7, 104)]);
        assert_eq!(before.at(10), None);
        assert_eq!(before.at(11), Some((5, 101)));
        assert_eq!(before.at(40), Some((5, 101)));
        assert_eq!(before.at(41), Some((7, 104)));
    }
}
