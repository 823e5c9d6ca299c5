//! Names that the mesh does not have, remembered for a moment so that they are not asked for again at once.
//!
//! A bounded memory of its own: invented hosts evict other invented hosts, and nothing else.

use std::collections::VecDeque;

use foldhash::HashMap;
use outrigger_core::Name;
use tokio::time::Instant;

/// The absent names.
#[derive(Debug)]
pub(super) struct Absences {
    limit: usize,
    until: HashMap<Name, Instant>,
    /// In the order in which they are forgotten.
    order: VecDeque<(Instant, Name)>,
}

impl Absences {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, until: HashMap::default(), order: VecDeque::new() }
    }

    /// Remembers a name until then. Times do not go back from one call to the next.
    pub(super) fn insert(&mut self, name: Name, until: Instant, now: Instant) {
        while let Some((oldest, _)) = self.order.front()
            && (*oldest <= now || self.order.len() >= self.limit)
        {
            self.pop();
        }
        if self.limit > 0 {
            self.until.insert(name.clone(), until);
            self.order.push_back((until, name));
        }
    }

    /// Whether the name is known not to exist.
    pub(super) fn has(&self, name: &str, now: Instant) -> bool {
        self.until.get(name).is_some_and(|until| *until > now)
    }

    fn pop(&mut self) {
        if let Some((until, name)) = self.order.pop_front()
            && self.until.get(&name) == Some(&until)
        {
            self.until.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_name_is_remembered_for_its_time_and_so_many_at_most() {
        let (mut absences, now) = (Absences::new(2), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        absences.insert("a".into(), after(2), now);
        assert!(absences.has("a", after(1)) && !absences.has("a", after(2)) && !absences.has("b", now));
        absences.insert("a".into(), after(3), after(1));
        absences.insert("b".into(), after(3), after(1));
        assert!(absences.has("a", after(2)), "its older time is over, and its newer is not");
        absences.insert("c".into(), after(4), after(2));
        assert!(!absences.has("a", after(2)) && absences.has("b", after(2)) && absences.has("c", after(2)));
        absences.insert("d".into(), after(9), after(8));
        assert_eq!((absences.until.len(), absences.order.len()), (1, 1));
    }
}
