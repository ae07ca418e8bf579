//! What is asked of a request: small units of one shape, by stage.
//!
//! A policy is one file: module doc (What it does · Configuration · Answers · Cost · References), its compiled type,
//! `impl Policy`, helpers, reasons, tests. It is given bytes and a time and answers with a [`Verdict`]: no socket, no
//! clock, no `async`. **Order is fixed by [`Stage`], never by the operator.**
//!
//! In [`Mode::Observe`] a policy runs the identical code: it decides, but it must not set an identity, refuse, or change
//! what is forwarded. [`Chain::run_head`] sees to the refusal; a policy that has effects asks [`Exchange::enforcing`]
//! before it makes them.

pub mod admit;
pub mod authorize;
pub mod identify;
pub mod limit;
pub mod respond;
pub mod validate;
pub mod websocket;

use crate::http::Reason;
use crate::pipeline::exchange::Exchange;
use crate::worker::state::CoreState;

/// Where in the path a policy stands. The order is the order of cost and safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Before authentication: what can be said of a connection or an address.
    Admit,
    /// Who is it?
    Identify,
    /// May they?
    Authorize,
    /// How often?
    Limit,
    /// Does the head say what its body may be?
    Declare,
    /// Is the message within its contract?
    Validate,
    /// What goes back.
    Respond,
}

/// How a policy acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is not run.
    Off,
    /// It is run and counted; nothing follows from it.
    Observe,
    /// It is run, and what it says is done.
    #[default]
    Enforce,
}

/// What a policy says of a request.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// The next one, please.
    Continue,
    /// The request ends here, with this reason.
    Refuse(&'static Reason),
}

/// A compiled policy.
pub trait Policy: Sized + 'static {
    /// The key in the configuration, and the label in metrics.
    const NAME: &'static str;

    /// Judges the request: its head, and its body where the operation holds one.
    fn apply(&self, x: &mut Exchange, core: &mut CoreState) -> Verdict;
}

/// The policies that exist, compiled: a static `match`, no `dyn`.
#[derive(Debug)]
pub enum Compiled {
    /// Is anything served at all?
    Maintenance(admit::maintenance::Maintenance),
    /// Who is it?
    Login(identify::Logins),
    /// May they?
    Allow(authorize::allow::Allow),
    /// How often?
    Limits(limit::rate::Limits),
    /// Does the body say that it is what it may be?
    ContentType(validate::content_type::ContentType),
    /// Is the body what the schema says?
    Schema(validate::json_schema::JsonSchema),
}

impl Compiled {
    fn apply(&self, x: &mut Exchange, core: &mut CoreState) -> Verdict {
        match self {
            Compiled::Maintenance(policy) => policy.apply(x, core),
            Compiled::Login(policy) => policy.apply(x, core),
            Compiled::Allow(policy) => policy.apply(x, core),
            Compiled::Limits(policy) => policy.apply(x, core),
            Compiled::ContentType(policy) => policy.apply(x, core),
            Compiled::Schema(policy) => policy.apply(x, core),
        }
    }

    /// The place of this kind in [`NAMES`].
    const fn index(&self) -> usize {
        match self {
            Compiled::Login(_) => 0,
            Compiled::Allow(_) => 1,
            Compiled::Limits(_) => 2,
            Compiled::Schema(_) => 3,
            Compiled::ContentType(_) => 4,
            Compiled::Maintenance(_) => 5,
        }
    }

    /// The key in the configuration, and the label in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Compiled::Maintenance(_) => admit::maintenance::Maintenance::NAME,
            Compiled::Login(_) => identify::Logins::NAME,
            Compiled::Allow(_) => authorize::allow::Allow::NAME,
            Compiled::Limits(_) => limit::rate::Limits::NAME,
            Compiled::ContentType(_) => validate::content_type::ContentType::NAME,
            Compiled::Schema(_) => validate::json_schema::JsonSchema::NAME,
        }
    }
}

/// The kinds of policies, by the index that they are counted under.
pub const NAMES: &[&str] = &[
    identify::Logins::NAME,
    authorize::allow::Allow::NAME,
    limit::rate::Limits::NAME,
    validate::json_schema::JsonSchema::NAME,
    validate::content_type::ContentType::NAME,
    admit::maintenance::Maintenance::NAME,
];

/// One policy in its place.
#[derive(Debug)]
pub struct Link {
    /// Where it stands.
    pub stage: Stage,
    /// How it acts.
    pub mode: Mode,
    /// What it does.
    pub policy: Compiled,
}

/// The policies of one operation, in the order of their stages.
#[derive(Debug, Default)]
pub struct Chain {
    links: Vec<Link>,
    /// Index of the first link that wants the body: everything before it is judged on the head alone.
    body_from: usize,
}

impl Chain {
    /// Puts `links` in order; links of one stage keep their order among themselves. Policies that are off are left out.
    pub fn new(mut links: Vec<Link>) -> Chain {
        links.retain(|link| link.mode != Mode::Off);
        links.sort_by_key(|link| link.stage);
        let body_from = links.iter().position(|link| link.stage >= Stage::Validate).unwrap_or(links.len());
        Chain { links, body_from }
    }

    /// Judges the head: all stages before `Validate`.
    pub fn run_head(&self, x: &mut Exchange, core: &mut CoreState) -> Verdict {
        run(&self.links[..self.body_from], x, core)
    }

    /// Judges once more who it is and whether they may, of an exchange that lasts. Nothing is counted, and nothing charged.
    ///
    /// # Errors
    /// Why it would be refused now.
    pub fn run_again(&self, x: &mut Exchange, core: &mut CoreState) -> Result<(), &'static Reason> {
        for link in self.links.iter().filter(|link| link.mode == Mode::Enforce) {
            if let Compiled::Login(_) | Compiled::Allow(_) = link.policy {
                x.set_mode(link.mode);
                if let Verdict::Refuse(reason) = link.policy.apply(x, core) {
                    return Err(reason);
                }
            }
        }
        Ok(())
    }

    /// Judges the body that is held.
    pub fn run_body(&self, x: &mut Exchange, core: &mut CoreState) -> Verdict {
        run(&self.links[self.body_from..], x, core)
    }

    /// The body is too long for policies that only observe: what they would have said is unknown, and counted as that.
    pub fn pass_unread(&self, core: &CoreState) {
        for link in &self.links[self.body_from..] {
            core.count_unknown(link.policy.index());
        }
    }

    /// Whether a policy wants the whole body before it is forwarded.
    pub fn wants_body(&self) -> bool {
        self.body_from < self.links.len()
    }

    /// Whether a policy that wants the body may refuse it: a body past its bound is then refused, else it passes with the
    /// verdict `unknown`.
    pub fn enforces_body(&self) -> bool {
        self.links[self.body_from..].iter().any(|link| link.mode == Mode::Enforce)
    }

    /// The policies, in order.
    pub fn links(&self) -> &[Link] {
        &self.links
    }
}

fn run(links: &[Link], x: &mut Exchange, core: &mut CoreState) -> Verdict {
    for link in links {
        x.set_mode(link.mode);
        let verdict = link.policy.apply(x, core);
        core.count_decision(link.policy.index(), link.mode, matches!(verdict, Verdict::Refuse(_)));
        if let Verdict::Refuse(reason) = verdict {
            if link.mode == Mode::Enforce {
                // It is not in flight any more, however long its client takes to read that.
                x.seats.leave();
                x.set_refuser(link.policy.name());
                return verdict;
            }
            x.observed(link.policy.name(), reason);
            core.metrics.refusal(reason, crate::observe::Mode::Observe);
        }
    }
    Verdict::Continue
}
