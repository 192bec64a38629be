//! In which order entries are given up.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Entries by their last use: those that were never of use first, then the others; among each, the oldest first.
///
/// Every use is queued with a stamp; a stamp that is not its entry's last is passed over, so that all operations take the
/// same time on average, however many entries there are.
pub(super) struct Order<T> {
    /// The last use of each entry, and whether it was ever of use.
    uses: HashMap<T, (u64, bool)>,
    clock: u64,
    /// Never of use, and of use.
    queues: [VecDeque<(u64, T)>; 2],
}

impl<T> Default for Order<T> {
    fn default() -> Self {
        Self { uses: HashMap::new(), clock: 0, queues: [VecDeque::new(), VecDeque::new()] }
    }
}

impl<T: Copy + Eq + Hash> Order<T> {
    /// Notes that an entry came, or came again.
    pub fn touch(&mut self, entry: T) {
        self.note(entry, false);
    }

    /// Notes that an entry was of use.
    pub fn hit(&mut self, entry: T) {
        self.note(entry, true);
    }

    fn note(&mut self, entry: T, hit: bool) {
        self.clock += 1;
        let use_ = self.uses.entry(entry).or_insert((0, false));
        *use_ = (self.clock, use_.1 || hit);
        self.queues[usize::from(use_.1)].push_back((self.clock, entry));
        for queue in &mut self.queues {
            if queue.len() > 2 * self.uses.len() + 64 {
                queue.retain(|(stamp, entry)| self.uses.get(entry).is_some_and(|u| u.0 == *stamp));
            }
        }
    }

    /// Takes out the entry that goes first.
    pub fn oldest(&mut self) -> Option<T> {
        for queue in &mut self.queues {
            while let Some((stamp, entry)) = queue.pop_front() {
                if self.uses.get(&entry).is_some_and(|u| u.0 == stamp) {
                    self.uses.remove(&entry);
                    return Some(entry);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Order;

    #[test]
    fn entries_of_use_outlive_those_that_never_were_and_older_ones_go_first() {
        let mut order = Order::default();
        (0..100).for_each(|i| order.touch(i));
        order.hit(3);
        (0..1000).for_each(|_| order.touch(5));
        order.hit(1);
        order.touch(3);
        let left: Vec<i32> = std::iter::from_fn(|| order.oldest()).collect();
        assert_eq!(left.len(), 100);
        assert_eq!(left[..4], [0, 2, 4, 6]);
        assert_eq!(left[97..], [5, 1, 3]);
    }
}
