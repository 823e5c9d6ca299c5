//! The pools of one cluster, which share its connection limit, or of one worker, which share that of the process.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::Pool;

/// With fewer entries than this, those of dropped pools are not removed.
const FEW: usize = 64;

/// Weak references to pools.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Siblings(RefCell<List>);

#[derive(Debug, Default)]
struct List {
    pools: Vec<Weak<Pool>>,
    /// The number of entries at which those of dropped pools are removed.
    tidy_at: usize,
}

impl Siblings {
    /// Adds a pool.
    pub(super) fn add(&self, pool: &Rc<Pool>) {
        let List { pools, tidy_at } = &mut *self.0.borrow_mut();
        if pools.len() >= *tidy_at {
            pools.retain(|pool| pool.strong_count() > 0);
            *tidy_at = (2 * pools.len()).max(FEW);
        }
        pools.push(Rc::downgrade(pool));
    }

    /// Closes an idle connection. Returns false if there is none. Iterates over all pools, which happens only if the connection
    /// limit is reached.
    pub(in crate::upstream) fn close_an_idle_one(&self) -> bool {
        let idle = {
            let list = self.0.borrow();
            list.pools.iter().filter_map(Weak::upgrade).find(|pool| pool.has_an_idle_one())
        };
        idle.is_some_and(|pool| pool.close_an_idle_one())
    }
}
