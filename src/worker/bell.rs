//! Cores tell each other "look again": a place for a request has been granted to somebody who waits on another core.
//!
//! What there is to see travels in atomics (`upstream::slots`); the bell is that of the core's desk and carries nothing. It is rung only while somebody
//! waits, so in calm times no core ever disturbs another.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use crate::upstream::pool::CoreUpstream;
use crate::upstream::slots::MARKS;
use crate::worker::core::Node;

thread_local! {
    static OWN: RefCell<Own> = RefCell::default();
}

/// What the thread of a core knows of bells.
#[derive(Default)]
struct Own {
    core: usize,
    node: Option<Arc<Node>>,
    /// Where somebody waits on this core, or a grant may still be on the way.
    lines: Vec<Rc<CoreUpstream>>,
}

/// This thread is `core` of `node` from now on.
pub fn settle(core: usize, node: Arc<Node>) {
    OWN.with_borrow_mut(|own| *own = Own { core, node: Some(node), lines: Vec::new() });
}

/// Rings the bells of all other cores with this mark. True: this core has the mark as well.
pub fn ring(mark: usize) -> bool {
    OWN.with_borrow(|own| {
        let desks = own.node.as_ref().map(|node| node.desks.as_slice()).unwrap_or_default();
        for (core, desk) in desks.iter().enumerate().skip(mark).step_by(MARKS) {
            if core != own.core {
                desk.ring();
            }
        }
        own.core % MARKS == mark
    })
}

/// Somebody waits for a place of `upstream` on this core.
pub fn attend(upstream: &Rc<CoreUpstream>) {
    OWN.with_borrow_mut(|own| {
        if !own.lines.iter().any(|known| Rc::ptr_eq(known, upstream)) {
            own.lines.push(Rc::clone(upstream));
        }
    });
}

/// Looks at all lines of this core: when the bell rang, and ten times a second.
pub fn look() {
    let lines = OWN.with_borrow(|own| own.lines.clone());
    if lines.is_empty() {
        return;
    }
    lines.iter().for_each(|upstream| upstream.look());
    OWN.with_borrow_mut(|own| own.lines.retain(|upstream| upstream.is_awaited()));
}
