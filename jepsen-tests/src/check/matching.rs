//! Bipartite matching by augmenting paths: which gaps cannot be filled, each filler serving one gap.

use std::collections::VecDeque;

/// Gaps (by number) that stay open when as many as possible are filled. `fits` says which filler may serve which gap.
pub fn unmatched(gaps: usize, fillers: usize, fits: impl Fn(usize, usize) -> bool) -> Vec<usize> {
    let mut matching = Matching { filled_by: vec![None; gaps], serves: vec![None; fillers] };
    (0..gaps).filter(|gap| !matching.fill(*gap, &fits)).collect()
}

struct Matching {
    filled_by: Vec<Option<usize>>,
    serves: Vec<Option<usize>>,
}

impl Matching {
    /// Finds a filler for `gap`, moving other gaps to other fillers where that helps.
    fn fill(&mut self, gap: usize, fits: &impl Fn(usize, usize) -> bool) -> bool {
        // Breadth first; each filler remembers the gap that asked for it first.
        let mut asked_by: Vec<Option<usize>> = vec![None; self.serves.len()];
        let mut open = VecDeque::from([gap]);
        while let Some(gap) = open.pop_front() {
            for filler in 0..self.serves.len() {
                if asked_by[filler].is_some() || !fits(gap, filler) {
                    continue;
                }
                asked_by[filler] = Some(gap);
                match self.serves[filler] {
                    Some(other) => open.push_back(other),
                    None => {
                        self.hand_over(filler, &asked_by);
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Gives `filler` to the gap that asked for it, that gap's former filler to the gap that asked for that, and so on.
    fn hand_over(&mut self, filler: usize, asked_by: &[Option<usize>]) {
        let mut next = Some(filler);
        while let Some(filler) = next
            && let Some(gap) = asked_by[filler]
        {
            self.serves[filler] = Some(gap);
            next = self.filled_by[gap].replace(filler);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unmatched;

    #[test]
    fn fillers_move_to_make_room() {
        // Gap 0 can take 0 or 1, gap 1 only 0, gap 2 can take 1 or 2.
        let fits = |gap, filler| matches!((gap, filler), (0, 0 | 1) | (1, 0) | (2, 1 | 2));
        assert_eq!(unmatched(3, 3, fits), Vec::<usize>::new());
        // Without filler 2 one gap must stay open.
        assert_eq!(unmatched(3, 2, fits).len(), 1);
    }

    #[test]
    fn nothing_fills_nothing() {
        assert_eq!(unmatched(2, 0, |_, _| true), vec![0, 1]);
        assert_eq!(unmatched(0, 2, |_, _| true), Vec::<usize>::new());
        assert_eq!(unmatched(2, 2, |_, _| false), vec![0, 1]);
    }
}
